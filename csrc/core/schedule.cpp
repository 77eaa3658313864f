#include "schedule.hpp"

#include <algorithm>
#include <cmath>

namespace hookrun::schedule {
namespace {

constexpr double kPi = 3.141592653589793;  // math.pi

// Replaces each value by its curve. What depends on the step alone, the costly part, is computed
// once for all parameter groups: in the captures of `curve`.
template <class Curve>
void replace(double* values, std::size_t count, Curve curve) {
  for (std::size_t i = 0; i < count; ++i) values[i] = curve(values[i]);
}

// How far a way is gone, for a strategy: what its curves share at one step.
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

// The part of `total` steps that is done; an empty stretch is done at once.
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

}  // namespace

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

CosineRestart::CosineRestart(const std::vector<Count>& periods, std::vector<double> weights,
                             Target target)
    : weights_(std::move(weights)), target_(target) {
  Count end = 0;
  for (const Count period : periods) ends_.push_back(end += period);
}

void CosineRestart::apply(double* values, std::size_t count, Count step, Count) const {
  const std::size_t index = reached(ends_, step);
  if (index == ends_.size()) {
    replace(values, count, [&](double base) { return target_.of(base); });
    return;
  }
  const Count start = index == 0 ? 0 : ends_[index - 1];
  const Progress progress(Strategy::kCos, fraction_of(step - start, ends_[index] - start));
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
