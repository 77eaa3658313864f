// Learning-rate and momentum schedules: pure functions of the step, in double precision.
//
// hookrun/schedules/policies.py defines them, in the same order of operations, so that both give
// the same bits. A step is an epoch or an iteration; a policy does not care which. Step 0 is a
// run's first step; what a policy anneals to is its value at step `total`, and it stays there.
//
// All values are learning rates or momenta. `base` is the one that a group's schedule starts from.
// Arguments called `gamma` and `power` and those that are multiplied with `base` are pure numbers.
//
// Constructors throw std::invalid_argument for arguments that make no schedule, so that nothing is
// divided by zero or read past the end of a list later. Steps beyond `kLongest` are taken as that,
// so that no sum of them overflows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace hookrun::schedule {

// A number of steps: of epochs or of iterations.
using Count = std::int64_t;

// The longest run, in steps: sums and differences of two such counts fit into a Count.
inline constexpr Count kLongest = (Count{1} << 62) - 1;

// The way from one value to another: half a cosine wave, a straight line, or
// `start + (end - start) * sqrt(fraction)`.
enum class Strategy { kCos, kLinear, kOneMinusSqrt };

// A schedule without warm-up.
class Policy {
 public:
  virtual ~Policy() = default;

  // Replaces base values by those of a step.
  //   values: in: one base value per parameter group; out: the group's value at the step.
  //   count:  how many values there are.
  //   step:   steps done so far, counted from 0.
  //   total:  steps of the whole run; read only if needs_total().
  virtual void apply(double* values, std::size_t count, Count step, Count total) const = 0;

  // Whether apply() reads `total`.
  virtual bool needs_total() const { return false; }

  // Whether the values depend on nothing but the fraction of the run that is done. Then, where
  // epochs change their length, `step` and `total` may be counted in the present length.
  virtual bool spans_run() const { return needs_total(); }

  // The value at a step, for one base value; the arguments are those of apply(). Throws
  // std::invalid_argument for a step or total whose size exceeds kLongest.
  double at(double base, Count step, Count total) const;
};

using PolicyPtr = std::shared_ptr<const Policy>;

// Where a policy anneals to.
struct Target {
  double value;  // a learning rate or momentum, or where `relative`, a fraction of the base value
  bool relative;

  double of(double base) const { return relative ? base * value : value; }
};

// `base`.
class Fixed : public Policy {
 public:
  void apply(double* values, std::size_t count, Count step, Count total) const override;
};

// `max(base * gamma ** (step / period), minimum)`.
class Step : public Policy {
 public:
  //   period:  steps between two changes, at least 1.
  //   gamma:   the factor at each; finite.
  //   minimum: what the value does not fall below; -infinity for no limit.
  Step(Count period, double gamma, double minimum);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  Count period_;
  double gamma_, minimum_;
};

// `max(base * gamma ** n, minimum)`, with `n` the number of milestones reached.
class MultiStep : public Policy {
 public:
  //   milestones: the steps of the changes, ascending.
  //   gamma:      the factor at each; finite.
  //   minimum:    what the value does not fall below; -infinity for no limit.
  MultiStep(std::vector<Count> milestones, double gamma, double minimum);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  std::vector<Count> milestones_;
  double gamma_, minimum_;
};

// `base * gamma ** step`.
class Exp : public Policy {
 public:
  //   gamma: the factor per step; finite.
  explicit Exp(double gamma);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double gamma_;
};

// `base * (1 + gamma * step) ** -power`.
class Inv : public Policy {
 public:
  //   gamma: the pace per step; finite, at least 0.
  //   power: the exponent; finite.
  Inv(double gamma, double power);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double gamma_, power_;
};

// A policy whose value depends on the length of the run.
class TimedPolicy : public Policy {
 public:
  bool needs_total() const override { return true; }
};

// `(base - end) * (1 - step / total) ** power + end`.
class Poly : public TimedPolicy {
 public:
  //   power: the exponent; finite, at least 0.
  //   end:   the value at the end of the run; finite.
  Poly(double power, double end);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double power_, end_;
};

// Half a cosine wave from `base` to the target over the run.
class CosineAnnealing : public TimedPolicy {
 public:
  explicit CosineAnnealing(Target target) : target_(target) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  Target target_;
};

// A straight line from `base` to the target over the run.
class LinearAnnealing : public TimedPolicy {
 public:
  explicit LinearAnnealing(Target target) : target_(target) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  Target target_;
};

// `base` for the first part of the run, then half a cosine wave to the target.
class FlatCosineAnnealing : public TimedPolicy {
 public:
  //   start_percent: the fraction of the run, in [0, 1], after which the wave begins; rounded to
  //                  whole steps, half to even.
  //   target:        the value at the end of the run.
  FlatCosineAnnealing(double start_percent, Target target);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double start_percent_;
  Target target_;
};

// Half a cosine wave per period, down to the target; past the last period, the target.
class CosineRestart : public Policy {
 public:
  //   periods: the steps that each wave lasts, at least 1 each.
  //   weights: where each wave starts, between the target (0) and `base` (1); as many as periods.
  //   target:  the value at the end of each wave.
  CosineRestart(std::vector<Count> periods, std::vector<double> weights, Target target);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  std::vector<Count> periods_, ends_;
  std::vector<double> weights_;
  Target target_;
};

// Cycles over the run, each from `base` to `base * peak` to `base * end`.
class Cyclic : public TimedPolicy {
 public:
  //   peak, end: factors on `base`; finite.
  //   times:     cycles in the run, at least 1.
  //   up:        the fraction of a cycle that goes to the peak, in [0, 1].
  //   strategy:  the way from one to the other.
  //   gamma:     the factor, from cycle to cycle, on the distance of the peak from `base`; finite.
  Cyclic(double peak, double end, Count times, double up, Strategy strategy, double gamma);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double peak_, end_;
  Count times_;
  double up_;
  Strategy strategy_;
  double gamma_;
};

// From `base` to `base * peak` to `base * end`, reached at the last step.
class OneCycle : public Policy {
 public:
  //   pct_start:   the fraction of the steps that goes up, in [0, 1].
  //   peak, end:   factors on `base`; finite.
  //   strategy:    the way from one to the other.
  //   three_phase: whether to come back to `base` in as many steps before going to the end.
  //   total_steps: the steps that the cycle takes; 0 for those of the run.
  OneCycle(double pct_start, double peak, double end, Strategy strategy, bool three_phase,
           Count total_steps);
  void apply(double* values, std::size_t count, Count step, Count total) const override;
  bool needs_total() const override { return total_steps_ == 0; }

 private:
  double pct_start_, peak_, end_;
  Strategy strategy_;
  bool three_phase_;
  Count total_steps_;
};

// `base` until the decay, which takes the last steps of the run.
class WSD : public TimedPolicy {
 public:
  //   decay_steps: the steps of the decay, at least 0.
  //   decay_ratio: where that is 0, the decay's fraction of the run, in [0, 1]; rounded to whole
  //                steps, half to even.
  //   strategy:    the way down.
  //   target:      the value at the end of the run.
  WSD(Count decay_steps, double decay_ratio, Strategy strategy, Target target);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  Count decay_steps_;
  double decay_ratio_;
  Strategy strategy_;
  Target target_;
};

// One policy after the other; each sees the steps of its own stretch only.
class Sequential : public Policy {
 public:
  //   policies:   none of them null; one more than there are milestones.
  //   milestones: the first steps of the second policy, the third and so on; ascending.
  Sequential(std::vector<PolicyPtr> policies, std::vector<Count> milestones);
  void apply(double* values, std::size_t count, Count step, Count total) const override;
  bool needs_total() const override { return policies_.back()->needs_total(); }
  bool spans_run() const override { return false; }  // milestones are iterations as they happen

 private:
  std::vector<PolicyPtr> policies_;
  std::vector<Count> milestones_;
};

// The factor on a schedule's value over the first iterations of a run.
struct Warmup {
  enum class Kind { kNone, kConstant, kLinear, kExp };

  // No warm-up: the factor is 1.
  Warmup() = default;
  //   kind:  constant stays at the ratio, linear goes to 1 in a straight line, and exp multiplies
  //          by the same number at each iteration.
  //   iters: iterations that it lasts, at least 0; always iterations, also where the schedule
  //          counts epochs.
  //   ratio: the factor at iteration 0, in (0, 1].
  Warmup(Kind kind, Count iters, double ratio);

  Kind kind = Kind::kNone;
  Count iters = 0;
  double ratio = 1.0;

  bool over(Count iteration) const { return kind == Kind::kNone || iteration >= iters; }
  // The factor at an iteration, counted from 0.
  double factor(Count iteration) const;
};

}  // namespace hookrun::schedule
