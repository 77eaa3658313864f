#include "check.hpp"
#include "core/counters.hpp"

using hookrun::Counters;
using hookrun::IdleWindow;
using hookrun::Trigger;

namespace {

Trigger conditional() {
  Trigger trigger;
  trigger.always = false;
  return trigger;
}

// What `distance` says must be what counting up finds.
std::int64_t distance_by_stepping(const Trigger& trigger, Counters counters, std::int64_t limit) {
  for (std::int64_t steps = 0; steps < limit; ++steps) {
    if (trigger.due(counters)) return steps;
    ++counters.iter;
    ++counters.inner_iter;
  }
  return Trigger::kNever;
}

}  // namespace

TEST(a_trigger_without_conditions_is_always_due) { CHECK(Trigger().due(Counters())); }

TEST(a_conditional_trigger_with_no_condition_set_is_never_due) {
  CHECK(conditional().distance(Counters()) == Trigger::kNever);
}

TEST(every_counts_completed_iterations) {
  Trigger trigger = conditional();
  trigger.every_iters = 3;
  Counters counters;
  CHECK(!trigger.due(counters));  // the first iteration is number 1
  counters.iter = 2;
  CHECK(trigger.due(counters));
  counters.iter = 3;
  CHECK(!trigger.due(counters));
}

TEST(start_moves_the_first_due_iteration) {
  Trigger trigger = conditional();
  trigger.every_iters = 2;
  trigger.start = 3;
  Counters counters;
  int due = 0;
  for (counters.iter = 0; counters.iter < 8; ++counters.iter) {
    if (!trigger.due(counters)) continue;
    ++due;
    CHECK(counters.iter + 1 == 3 || counters.iter + 1 == 5 || counters.iter + 1 == 7);
  }
  CHECK(due == 3);
}

TEST(last_follows_the_limits_and_never_comes_without_one) {
  Trigger trigger = conditional();
  trigger.last_iter = trigger.last_epoch = true;
  Counters counters;
  CHECK(trigger.distance(counters) == Trigger::kNever);
  counters.max_iters = 5;
  CHECK(trigger.distance(counters) == 4);
  counters.max_epochs = 1;
  CHECK(trigger.due(counters));
}

TEST(the_end_of_an_epoch_of_unknown_length_is_asked_for) {
  Trigger trigger = conditional();
  trigger.end_of_epoch = true;
  Counters counters;
  CHECK(trigger.due(counters));
  counters.epoch_length = 4;
  CHECK(trigger.distance(counters) == 3);
}

TEST(the_end_of_a_short_epoch_is_never_asked_for) {
  Trigger trigger = conditional();
  trigger.end_of_short_epoch = 5;
  Counters counters;
  CHECK(trigger.distance(counters) == Trigger::kNever);
  counters.epoch_length = 5;
  CHECK(trigger.distance(counters) == Trigger::kNever);
  counters.epoch_length = 4;
  counters.inner_iter = 1;
  CHECK(trigger.distance(counters) == 2);
}

TEST(schedules_that_span_the_run_count_in_the_present_length) {
  Counters counters;
  CHECK(counters.schedule_total() == Counters::kUnknown);
  counters.iter = 12;
  counters.max_iters = 32;
  counters.schedule_shift = 8;
  CHECK(counters.schedule_step() == 20);
  CHECK(counters.schedule_total() == 40);
  counters.inner_iter = 9;
  counters.epoch_length = 5;  // of a pass through a loader, where the run has no epochs
  CHECK(counters.schedule_step() == 20);
  counters.max_epochs =
      4;  // the fifth batch beyond what the loader said: the fifth one's step stays
  CHECK(counters.schedule_step() == 15);
  counters.inner_iter = 4;
  CHECK(counters.schedule_step() == 20);
}

TEST(log_ready_watches_the_flag) {
  Trigger trigger = conditional();
  trigger.log_ready = true;
  bool ready = false;
  Counters counters;
  CHECK(trigger.due(counters));  // unknown buffer: ask
  counters.log_ready = &ready;
  CHECK(!trigger.due(counters));
  ready = true;
  CHECK(trigger.due(counters));
}

TEST(distance_is_what_stepping_finds) {
  for (std::int64_t period = 0; period < 5; ++period) {
    for (std::int64_t start = 0; start < 7; ++start) {
      for (std::int64_t iter = 0; iter < 12; ++iter) {
        Trigger trigger = conditional();
        trigger.every_iters = period;
        trigger.every_inner_iters = (period * 3) % 5;
        trigger.start = start;
        trigger.last_iter = period % 2 == 0;
        trigger.end_of_epoch = start % 2 == 0;
        trigger.end_of_short_epoch = start + 4;
        Counters counters;
        counters.iter = iter;
        counters.inner_iter = iter % 4;
        counters.max_iters = 9;
        counters.epoch_length = 6;
        const std::int64_t found = distance_by_stepping(trigger, counters, 50);
        CHECK(trigger.distance(counters) == found);
      }
    }
  }
}

TEST(an_idle_window_holds_until_its_end_and_for_its_counters_only) {
  Counters counters;
  IdleWindow window;
  CHECK(!window.holds(counters));
  window.start(counters, 3, false);
  CHECK(window.holds(counters));
  counters.iter = counters.inner_iter = 2;
  CHECK(window.holds(counters));
  counters.iter = counters.inner_iter = 3;
  CHECK(!window.holds(counters));
  counters.iter = counters.inner_iter = 1;
  counters.epoch = 1;
  CHECK(!window.holds(counters));
  counters.epoch = 0;
  counters.max_iters = 7;
  CHECK(!window.holds(counters));
  counters.max_iters = Counters::kUnknown;
  counters.inner_iter = 0;  // a counter was written by hand
  CHECK(!window.holds(counters));
}

TEST(an_idle_window_ends_when_the_log_gets_ready) {
  bool ready = false;
  Counters counters;
  counters.log_ready = &ready;
  IdleWindow window;
  window.start(counters, Trigger::kNever, true);
  CHECK(window.holds(counters));
  ready = true;
  CHECK(!window.holds(counters));
}
