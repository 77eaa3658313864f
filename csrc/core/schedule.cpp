#include "schedule.hpp"

#include <algorithm>
#include <cmath>

namespace hookrun::schedule {
namespace {

constexpr double kPi = 3.141592653589793;  // math.pi

double anneal_cos(double start, double end, double fraction, double weight = 1.0) {
  return end + 0.5 * weight * (start - end) * (std::cos(kPi * fraction) + 1.0);
}

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

double anneal(Strategy strategy, double start, double end, double fraction) {
  switch (strategy) {
    case Strategy::kCos:
      return anneal_cos(start, end, fraction);
    case Strategy::kLinear:
      return start + (end - start) * fraction;
    case Strategy::kOneMinusSqrt:
      return start + (end - start) * std::sqrt(fraction);
  }
  return end;
}

double Fixed::at(double base, Count, Count) const { return base; }

double Step::at(double base, Count step, Count) const {
  return std::max(base * std::pow(gamma_, static_cast<double>(step / period_)), minimum_);
}

double MultiStep::at(double base, Count step, Count) const {
  const auto decays = static_cast<double>(reached(milestones_, step));
  return std::max(base * std::pow(gamma_, decays), minimum_);
}

double Exp::at(double base, Count step, Count) const {
  return base * std::pow(gamma_, static_cast<double>(step));
}

double Inv::at(double base, Count step, Count) const {
  return base * std::pow(1.0 + gamma_ * static_cast<double>(step), -power_);
}

double Poly::at(double base, Count step, Count total) const {
  return (base - end_) * std::pow(1.0 - fraction_of(step, total), power_) + end_;
}

double CosineAnnealing::at(double base, Count step, Count total) const {
  return anneal_cos(base, target_.of(base), fraction_of(step, total));
}

double LinearAnnealing::at(double base, Count step, Count total) const {
  return anneal(Strategy::kLinear, base, target_.of(base), fraction_of(step, total));
}

double FlatCosineAnnealing::at(double base, Count step, Count total) const {
  const Count start = part_of(total, start_percent_);
  if (step < start) return base;
  return anneal_cos(base, target_.of(base), fraction_of(step - start, total - start));
}

CosineRestart::CosineRestart(const std::vector<Count>& periods, std::vector<double> weights,
                             Target target)
    : weights_(std::move(weights)), target_(target) {
  Count end = 0;
  for (const Count period : periods) ends_.push_back(end += period);
}

double CosineRestart::at(double base, Count step, Count) const {
  const double target = target_.of(base);
  const std::size_t index = reached(ends_, step);
  if (index == ends_.size()) return target;
  const Count start = index == 0 ? 0 : ends_[index - 1];
  return anneal_cos(base, target, fraction_of(step - start, ends_[index] - start), weights_[index]);
}

double Cyclic::at(double base, Count step, Count total) const {
  const Count length = std::max<Count>(total / times_, 1);
  const auto climb = static_cast<Count>(up_ * static_cast<double>(length));
  const Count position = step % length;
  const double scale = std::pow(gamma_, static_cast<double>(step / length));
  const double peak = base * (1.0 - scale + peak_ * scale);
  if (position < climb) return anneal(strategy_, base, peak, fraction_of(position, climb));
  return anneal(strategy_, peak, base * end_, fraction_of(position - climb, length - climb));
}

double OneCycle::at(double base, Count step, Count total) const {
  if (total_steps_ != 0) total = total_steps_;
  const auto steps = static_cast<double>(total);
  const auto now = static_cast<double>(std::min(step, total - 1));
  const auto phase = [&](double first, double last, double start, double end) {
    // A climb of one step has no length: it is at the peak.
    const double fraction = last > first ? (now - first) / (last - first) : 1.0;
    return anneal(strategy_, base * start, base * end, fraction);
  };
  const double top = pct_start_ * steps - 1.0;
  const double low = 2.0 * pct_start_ * steps - 2.0;
  if (now <= top) return phase(0.0, top, 1.0, peak_);
  if (!three_phase_) return phase(top, steps - 1.0, peak_, end_);
  if (now <= low) return phase(top, low, peak_, 1.0);
  return phase(low, steps - 1.0, 1.0, end_);
}

double WSD::at(double base, Count step, Count total) const {
  const Count decay = decay_steps_ != 0 ? decay_steps_ : part_of(total, decay_ratio_);
  const Count start = std::max<Count>(total - decay, 0);
  if (step < start) return base;
  return anneal(strategy_, base, target_.of(base), fraction_of(step - start, total - start));
}

double Sequential::at(double base, Count step, Count total) const {
  const std::size_t index = reached(milestones_, step);
  const Count start = index == 0 ? 0 : milestones_[index - 1];
  const Count end = index < milestones_.size() ? milestones_[index] : total;
  return policies_[index]->at(base, step - start, end - start);
}

double Warmup::factor(Count iteration) const {
  if (over(iteration)) return 1.0;
  if (kind == Kind::kConstant) return ratio;
  const double left = 1.0 - static_cast<double>(iteration) / static_cast<double>(iters);
  if (kind == Kind::kLinear) return 1.0 - left * (1.0 - ratio);
  return std::pow(ratio, left);
}

}  // namespace hookrun::schedule
