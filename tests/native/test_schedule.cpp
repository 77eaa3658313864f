#include <cmath>

#include "check.hpp"
#include "core/schedule.hpp"

using namespace hookrun::schedule;

namespace {

bool near(double a, double b) { return std::abs(a - b) <= 1e-15 * std::max(1.0, std::abs(b)); }

constexpr double kBase = 0.5;
constexpr Target kZero{0.0, false};
constexpr Target kTenth{0.1, true};

}  // namespace

TEST(a_step_policy_falls_at_multiples_and_stops_at_the_minimum) {
  const Step policy(3, 0.1, 0.01);
  CHECK(policy.at(kBase, 2, 0) == kBase);
  CHECK(near(policy.at(kBase, 3, 0), 0.05));
  CHECK(policy.at(kBase, 6, 0) == 0.01);
}

TEST(milestones_count_from_the_step_they_name) {
  const MultiStep policy({2, 5}, 0.5, 0.0);
  CHECK(policy.at(kBase, 1, 0) == 0.5);
  CHECK(policy.at(kBase, 2, 0) == 0.25);
  CHECK(policy.at(kBase, 5, 0) == 0.125);
  CHECK(policy.at(kBase, 500, 0) == 0.125);
}

TEST(annealing_reaches_its_target_at_the_end_and_stays) {
  const CosineAnnealing cosine(kTenth);
  const LinearAnnealing line(kTenth);
  CHECK(line.at(kBase, 0, 10) == kBase);
  CHECK(near(cosine.at(kBase, 0, 10), kBase));
  CHECK(near(cosine.at(kBase, 5, 10), 0.275));
  for (const Count step : {10, 11, 1000}) {
    CHECK(near(cosine.at(kBase, step, 10), 0.05));
    CHECK(near(line.at(kBase, step, 10), 0.05));
  }
}

TEST(a_run_of_one_step_has_the_initial_value) {
  CHECK(near(CosineAnnealing(kZero).at(kBase, 0, 1), kBase));
  CHECK(LinearAnnealing(kZero).at(kBase, 0, 1) == kBase);
  CHECK(Poly(2.0, 0.0).at(kBase, 0, 1) == kBase);
}

TEST(a_flat_start_is_rounded_half_to_even) {
  const FlatCosineAnnealing policy(0.25, kZero);  // of 10 steps 2.5, of 14 steps 3.5
  CHECK(policy.at(kBase, 1, 10) == kBase);
  CHECK(policy.at(kBase, 3, 10) < kBase);
  CHECK(policy.at(kBase, 3, 14) == kBase);
  CHECK(policy.at(kBase, 5, 14) < kBase);
}

TEST(restarts_begin_at_their_weights_and_end_at_the_target) {
  const CosineRestart policy({4, 2}, {1.0, 0.5}, kZero);
  CHECK(near(policy.at(kBase, 0, 0), kBase));
  CHECK(near(policy.at(kBase, 4, 0), 0.5 * kBase));
  CHECK(policy.at(kBase, 6, 0) == 0.0);
}

TEST(cycles_meet_the_peak_and_shrink) {
  const Cyclic policy(3.0, 0.5, 2, 0.5, Strategy::kLinear, 0.5);
  CHECK(policy.at(kBase, 0, 8) == kBase);
  CHECK(near(policy.at(kBase, 2, 8), 3.0 * kBase));
  CHECK(near(policy.at(kBase, 6, 8), 2.0 * kBase));
}

TEST(more_cycles_than_steps_do_not_divide_by_zero) {
  CHECK(std::isfinite(Cyclic(3.0, 0.5, 9, 0.5, Strategy::kCos, 1.0).at(kBase, 1, 2)));
}

TEST(one_cycle_peaks_before_the_end_of_the_climb_and_stays_at_the_end) {
  const OneCycle policy(0.3, 25.0, 1e-4, Strategy::kCos, false, 0);
  CHECK(near(policy.at(kBase, 0, 10), kBase));
  CHECK(near(policy.at(kBase, 2, 10), 25.0 * kBase));
  CHECK(near(policy.at(kBase, 9, 10), 1e-4 * kBase));
  CHECK(policy.at(kBase, 99, 10) == policy.at(kBase, 9, 10));
}

TEST(a_climb_without_length_is_at_the_peak) {
  CHECK(near(OneCycle(0.1, 25.0, 1.0, Strategy::kLinear, false, 0).at(kBase, 0, 10), 12.5));
}

TEST(wsd_is_stable_until_the_decay) {
  const WSD steps(4, 0.0, Strategy::kOneMinusSqrt, kZero);
  const WSD part(0, 0.4, Strategy::kOneMinusSqrt, kZero);
  for (Count step = 0; step < 12; ++step)
    CHECK(steps.at(kBase, step, 10) == part.at(kBase, step, 10));
  CHECK(steps.at(kBase, 6, 10) == kBase);
  CHECK(near(steps.at(kBase, 7, 10), 0.5 * kBase));
  CHECK(steps.at(kBase, 10, 10) == 0.0);
}

TEST(a_sequence_gives_each_policy_its_own_steps) {
  const Sequential policy({std::make_shared<Fixed>(), std::make_shared<LinearAnnealing>(kZero)},
                          {4});
  CHECK(policy.needs_total());
  CHECK(policy.at(kBase, 4, 8) == kBase);
  CHECK(policy.at(kBase, 6, 8) == 0.5 * kBase);
}

TEST(groups_share_what_depends_on_the_step_only) {
  double values[] = {1.0, 0.5, 0.25};
  Exp(0.5).apply(values, 3, 2, 0);
  CHECK(values[0] == 0.25 && values[1] == 0.125 && values[2] == 0.0625);
}

TEST(warm_up_starts_at_the_ratio_and_ends_at_one) {
  using Kind = Warmup::Kind;
  CHECK(Warmup().factor(0) == 1.0);
  for (const Kind kind : {Kind::kConstant, Kind::kLinear, Kind::kExp}) {
    const Warmup warmup{kind, 4, 0.25};
    CHECK(near(warmup.factor(0), 0.25));
    CHECK(warmup.factor(4) == 1.0);
  }
  CHECK((Warmup{Kind::kConstant, 4, 0.25}.factor(3) == 0.25));
  CHECK(near(Warmup({Kind::kLinear, 4, 0.25}).factor(2), 0.625));
  CHECK(near(Warmup({Kind::kExp, 4, 0.25}).factor(2), 0.5));
}
