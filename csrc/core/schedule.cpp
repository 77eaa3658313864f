#include "schedule.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace hookrun::schedule {
namespace {

constexpr double kPi = 3.141592653589793;  // math.pi

// Replaces each value by its curve. What depends on the step alone, the costly part, is computed
// once for all parameter groups: in the captures of `curve`.
template <class Curve>
void replace(double* values, std::size_t count, Curve curve) {
  for (std::size_t i = 0; i < count; ++i) values[i] = curve(values[i]);
}

// A fraction of the way from one value to another, along a strategy. Curves with other ends share
// it at one step.
class Progress {
 public:
  Progress(Strategy strategy, double fraction) : falls_(strategy == Strategy::kCos) {
    switch (strategy) {
      case Strategy::kCos:
        part_ = std::cos(kPi * fraction) + 1.0;
        break;
      case Strategy::kLinear:
        part_ = fraction;
        break;
      case Strategy::kOneMinusSqrt:
        part_ = std::sqrt(fraction);
        break;
    }
  }

  double between(double start, double end, double weight = 1.0) const {
    if (falls_) return end + 0.5 * weight * (start - end) * part_;
    return start + (end - start) * part_;
  }

 private:
  bool falls_;  // the cosine falls from 2 to 0, the others climb from 0 to 1
  double part_ = 0.0;
};

// The fraction of `total` steps that is done; 1 where `total` is 0.
double fraction_of(Count step, Count total) {
  return step >= total ? 1.0 : static_cast<double>(step) / static_cast<double>(total);
}

// How many of the ascending `marks` have been reached.
std::size_t reached(const std::vector<Count>& marks, Count step) {
  return static_cast<std::size_t>(std::upper_bound(marks.begin(), marks.end(), step) -
                                  marks.begin());
}

// Half to even, as Python's round().
Count part_of(Count total, double part) {
  return static_cast<Count>(std::nearbyint(static_cast<double>(total) * part));
}

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

bool is_part(double number) { return number >= 0.0 && number <= 1.0; }

Count at_least(Count least, Count count, const char* what) {
  require(count >= least, what);
  return count;
}

std::vector<Count> ascending(std::vector<Count> steps, const char* what) {
  Count before = 0;
  for (Count& step : steps) {
    before = at_least(before, step, what);
    step = std::min(step, kLongest);
  }
  return steps;
}

}  // namespace

double Policy::at(double base, Count step, Count total) const {
  const auto is_of_a_run = [](Count count) { return count >= -kLongest && count <= kLongest; };
  require(is_of_a_run(step) && is_of_a_run(total), "a step lies between 0 and 2**62 - 1");
  apply(&base, 1, step, total);
  return base;
}

Step::Step(Count period, double gamma, double minimum)
    : period_(at_least(1, period, "Step: period must be at least 1")),
      gamma_(gamma),
      minimum_(minimum) {
  require(std::isfinite(gamma), "Step: gamma must be a finite number");
  require(!std::isnan(minimum), "Step: minimum must be a number");
}

MultiStep::MultiStep(std::vector<Count> milestones, double gamma, double minimum)
    : milestones_(ascending(std::move(milestones),
                            "MultiStep: milestones must be ascending numbers of steps")),
      gamma_(gamma),
      minimum_(minimum) {
  require(std::isfinite(gamma), "MultiStep: gamma must be a finite number");
  require(!std::isnan(minimum), "MultiStep: minimum must be a number");
}

Exp::Exp(double gamma) : gamma_(gamma) {
  require(std::isfinite(gamma), "Exp: gamma must be a finite number");
}

Inv::Inv(double gamma, double power) : gamma_(gamma), power_(power) {
  require(std::isfinite(gamma) && gamma >= 0.0, "Inv: gamma must be a finite number, at least 0");
  require(std::isfinite(power), "Inv: power must be a finite number");
}

Poly::Poly(double power, double end) : power_(power), end_(end) {
  require(std::isfinite(power) && power >= 0.0, "Poly: power must be a finite number, at least 0");
  require(std::isfinite(end), "Poly: end must be a finite number");
}

FlatCosineAnnealing::FlatCosineAnnealing(double start_percent, Target target)
    : start_percent_(start_percent), target_(target) {
  require(is_part(start_percent), "FlatCosineAnnealing: start_percent must be in [0, 1]");
}

CosineRestart::CosineRestart(std::vector<Count> periods, std::vector<double> weights, Target target)
    : periods_(std::move(periods)), weights_(std::move(weights)), target_(target) {
  require(weights_.size() == periods_.size(), "CosineRestart: one weight for each period");
  Count end = 0;
  for (const Count period : periods_) {
    at_least(1, period, "CosineRestart: periods must be at least 1 each");
    ends_.push_back(end += std::min(period, kLongest - end));
  }
}

Cyclic::Cyclic(double peak, double end, Count times, double up, Strategy strategy, double gamma)
    : peak_(peak),
      end_(end),
      times_(at_least(1, times, "Cyclic: times must be at least 1")),
      up_(up),
      strategy_(strategy),
      gamma_(gamma) {
  require(is_part(up), "Cyclic: up must be in [0, 1]");
  require(std::isfinite(peak) && std::isfinite(end) && std::isfinite(gamma),
          "Cyclic: peak, end and gamma must be finite numbers");
}

OneCycle::OneCycle(double pct_start, double peak, double end, Strategy strategy, bool three_phase,
                   Count total_steps)
    : pct_start_(pct_start),
      peak_(peak),
      end_(end),
      strategy_(strategy),
      three_phase_(three_phase),
      total_steps_(at_least(0, total_steps, "OneCycle: total_steps must be at least 0")) {
  require(is_part(pct_start), "OneCycle: pct_start must be in [0, 1]");
  require(std::isfinite(peak) && std::isfinite(end), "OneCycle: peak and end must be finite");
}

WSD::WSD(Count decay_steps, double decay_ratio, Strategy strategy, Target target)
    : decay_steps_(at_least(0, decay_steps, "WSD: decay_steps must be at least 0")),
      decay_ratio_(decay_ratio),
      strategy_(strategy),
      target_(target) {
  require(is_part(decay_ratio), "WSD: decay_ratio must be in [0, 1]");
}

Sequential::Sequential(std::vector<PolicyPtr> policies, std::vector<Count> milestones)
    : policies_(std::move(policies)),
      milestones_(ascending(std::move(milestones),
                            "Sequential: milestones must be ascending numbers of steps")) {
  require(policies_.size() == milestones_.size() + 1,
          "Sequential: there must be one policy more than milestones");
  require(std::find(policies_.begin(), policies_.end(), nullptr) == policies_.end(),
          "Sequential: a policy must not be None");
}

Warmup::Warmup(Kind kind_, Count iters_, double ratio_)
    : kind(kind_), iters(at_least(0, iters_, "Warmup: iters must be at least 0")), ratio(ratio_) {
  require(ratio > 0.0 && ratio <= 1.0, "Warmup: ratio must be a number in (0, 1]");
}

void Fixed::apply(double*, std::size_t, Count, Count) const {}

void Step::apply(double* values, std::size_t count, Count step, Count) const {
  const double factor = std::pow(gamma_, static_cast<double>(step / period_));
  replace(values, count, [&](double base) { return std::max(base * factor, minimum_); });
}

void MultiStep::apply(double* values, std::size_t count, Count step, Count) const {
  const double factor = std::pow(gamma_, static_cast<double>(reached(milestones_, step)));
  replace(values, count, [&](double base) { return std::max(base * factor, minimum_); });
}

void Exp::apply(double* values, std::size_t count, Count step, Count) const {
  const double factor = std::pow(gamma_, static_cast<double>(step));
  replace(values, count, [&](double base) { return base * factor; });
}

void Inv::apply(double* values, std::size_t count, Count step, Count) const {
  const double factor = std::pow(1.0 + gamma_ * static_cast<double>(step), -power_);
  replace(values, count, [&](double base) { return base * factor; });
}

void Poly::apply(double* values, std::size_t count, Count step, Count total) const {
  const double left = std::pow(1.0 - fraction_of(step, total), power_);
  replace(values, count, [&](double base) { return (base - end_) * left + end_; });
}

void CosineAnnealing::apply(double* values, std::size_t count, Count step, Count total) const {
  const Progress progress(Strategy::kCos, fraction_of(step, total));
  replace(values, count, [&](double base) { return progress.between(base, target_.of(base)); });
}

void LinearAnnealing::apply(double* values, std::size_t count, Count step, Count total) const {
  const Progress progress(Strategy::kLinear, fraction_of(step, total));
  replace(values, count, [&](double base) { return progress.between(base, target_.of(base)); });
}

void FlatCosineAnnealing::apply(double* values, std::size_t count, Count step, Count total) const {
  const Count start = part_of(total, start_percent_);
  if (step < start) return;
  const Progress progress(Strategy::kCos, fraction_of(step - start, total - start));
  replace(values, count, [&](double base) { return progress.between(base, target_.of(base)); });
}

void CosineRestart::apply(double* values, std::size_t count, Count step, Count) const {
  const std::size_t index = reached(ends_, step);
  if (index == ends_.size()) {
    replace(values, count, [&](double base) { return target_.of(base); });
    return;
  }
  const Count start = index == 0 ? 0 : ends_[index - 1];
  const Progress progress(Strategy::kCos, fraction_of(step - start, periods_[index]));
  replace(values, count,
          [&](double base) { return progress.between(base, target_.of(base), weights_[index]); });
}

void Cyclic::apply(double* values, std::size_t count, Count step, Count total) const {
  const Count length = std::max<Count>(total / times_, 1);
  const auto climb = static_cast<Count>(up_ * static_cast<double>(length));
  const Count position = step % length;
  const double scale = std::pow(gamma_, static_cast<double>(step / length));
  const double peak = 1.0 - scale + peak_ * scale;
  if (position < climb) {
    const Progress progress(strategy_, fraction_of(position, climb));
    replace(values, count, [&](double base) { return progress.between(base, base * peak); });
  } else {
    const Progress progress(strategy_, fraction_of(position - climb, length - climb));
    replace(values, count, [&](double base) { return progress.between(base * peak, base * end_); });
  }
}

void OneCycle::apply(double* values, std::size_t count, Count step, Count total) const {
  if (total_steps_ != 0) total = total_steps_;
  const auto steps = static_cast<double>(total);
  const auto now = static_cast<double>(std::min(step, total - 1));
  const auto phase = [&](double first, double last, double start, double end) {
    // A climb of one step has no length: it is at the peak.
    const Progress progress(strategy_, last > first ? (now - first) / (last - first) : 1.0);
    replace(values, count, [&](double base) { return progress.between(base * start, base * end); });
  };
  const double top = pct_start_ * steps - 1.0;
  const double low = 2.0 * pct_start_ * steps - 2.0;
  if (now <= top) {
    phase(0.0, top, 1.0, peak_);
  } else if (!three_phase_) {
    phase(top, steps - 1.0, peak_, end_);
  } else if (now <= low) {
    phase(top, low, peak_, 1.0);
  } else {
    phase(low, steps - 1.0, 1.0, end_);
  }
}

void WSD::apply(double* values, std::size_t count, Count step, Count total) const {
  const Count decay = decay_steps_ != 0 ? decay_steps_ : part_of(total, decay_ratio_);
  const Count start = std::max<Count>(total - decay, 0);
  if (step < start) return;
  const Progress progress(strategy_, fraction_of(step - start, total - start));
  replace(values, count, [&](double base) { return progress.between(base, target_.of(base)); });
}

void Sequential::apply(double* values, std::size_t count, Count step, Count total) const {
  const std::size_t index = reached(milestones_, step);
  const Count start = index == 0 ? 0 : milestones_[index - 1];
  const Count end = index < milestones_.size() ? milestones_[index] : total;
  policies_[index]->apply(values, count, step - start, end - start);
}

double Warmup::factor(Count iteration) const {
  if (over(iteration)) return 1.0;
  if (kind == Kind::kConstant) return ratio;
  const double left = 1.0 - static_cast<double>(iteration) / static_cast<double>(iters);
  if (kind == Kind::kLinear) return 1.0 - left * (1.0 - ratio);
  return std::pow(ratio, left);
}

}  // namespace hookrun::schedule
