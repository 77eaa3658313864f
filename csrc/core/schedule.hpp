// Learning-rate and momentum schedules: pure functions of the step, in double precision.
//
// hookrun/schedules/policies.py defines them, in the same order of operations, so that both give
// the same bits. Step 0 is a run's first step; what a policy anneals to is its value at step
// `total`, and it stays there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace hookrun::schedule {

using Count = std::int64_t;

enum class Strategy { kCos, kLinear, kOneMinusSqrt };

// A schedule without warm-up.
class Policy {
 public:
  virtual ~Policy() = default;

  // Turns the values that the schedule starts from into those after `step` of `total` steps.
  virtual void apply(double* values, std::size_t count, Count step, Count total) const = 0;

  // Whether `total` is read.
  virtual bool needs_total() const { return false; }

  double at(double base, Count step, Count total) const {
    apply(&base, 1, step, total);
    return base;
  }
};

using PolicyPtr = std::shared_ptr<const Policy>;

// Where a policy anneals to: a value, or a part of the base value.
struct Target {
  double value;
  bool relative;

  double of(double base) const { return relative ? base * value : value; }
};

class Fixed : public Policy {
 public:
  void apply(double* values, std::size_t count, Count step, Count total) const override;
};

class Step : public Policy {
 public:
  Step(Count period, double gamma, double minimum)
      : period_(period), gamma_(gamma), minimum_(minimum) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  Count period_;
  double gamma_, minimum_;
};

class MultiStep : public Policy {
 public:
  MultiStep(std::vector<Count> milestones, double gamma, double minimum)
      : milestones_(std::move(milestones)), gamma_(gamma), minimum_(minimum) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  std::vector<Count> milestones_;
  double gamma_, minimum_;
};

class Exp : public Policy {
 public:
  explicit Exp(double gamma) : gamma_(gamma) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double gamma_;
};

class Inv : public Policy {
 public:
  Inv(double gamma, double power) : gamma_(gamma), power_(power) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double gamma_, power_;
};

// A policy whose value depends on the length of the run.
class TimedPolicy : public Policy {
 public:
  bool needs_total() const override { return true; }
};

class Poly : public TimedPolicy {
 public:
  Poly(double power, double end) : power_(power), end_(end) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double power_, end_;
};

class CosineAnnealing : public TimedPolicy {
 public:
  explicit CosineAnnealing(Target target) : target_(target) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  Target target_;
};

class LinearAnnealing : public TimedPolicy {
 public:
  explicit LinearAnnealing(Target target) : target_(target) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  Target target_;
};

class FlatCosineAnnealing : public TimedPolicy {
 public:
  FlatCosineAnnealing(double start_percent, Target target)
      : start_percent_(start_percent), target_(target) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double start_percent_;
  Target target_;
};

class CosineRestart : public Policy {
 public:
  CosineRestart(const std::vector<Count>& periods, std::vector<double> weights, Target target);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  std::vector<Count> ends_;  // of the periods
  std::vector<double> weights_;
  Target target_;
};

class Cyclic : public TimedPolicy {
 public:
  Cyclic(double peak, double end, Count times, double up, Strategy strategy, double gamma)
      : peak_(peak), end_(end), times_(times), up_(up), strategy_(strategy), gamma_(gamma) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double peak_, end_;
  Count times_;
  double up_;
  Strategy strategy_;
  double gamma_;
};

class OneCycle : public Policy {
 public:
  // `total_steps` 0: those of the run.
  OneCycle(double pct_start, double peak, double end, Strategy strategy, bool three_phase,
           Count total_steps)
      : pct_start_(pct_start),
        peak_(peak),
        end_(end),
        strategy_(strategy),
        three_phase_(three_phase),
        total_steps_(total_steps) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;
  bool needs_total() const override { return total_steps_ == 0; }

 private:
  double pct_start_, peak_, end_;
  Strategy strategy_;
  bool three_phase_;
  Count total_steps_;
};

class WSD : public TimedPolicy {
 public:
  // `decay_steps` 0: `decay_ratio` of the run.
  WSD(Count decay_steps, double decay_ratio, Strategy strategy, Target target)
      : decay_steps_(decay_steps),
        decay_ratio_(decay_ratio),
        strategy_(strategy),
        target_(target) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  Count decay_steps_;
  double decay_ratio_;
  Strategy strategy_;
  Target target_;
};

class Sequential : public Policy {
 public:
  // One policy more than milestones.
  Sequential(std::vector<PolicyPtr> policies, std::vector<Count> milestones)
      : policies_(std::move(policies)), milestones_(std::move(milestones)) {}
  void apply(double* values, std::size_t count, Count step, Count total) const override;
  bool needs_total() const override { return policies_.back()->needs_total(); }

 private:
  std::vector<PolicyPtr> policies_;
  std::vector<Count> milestones_;
};

// The factor on a schedule's value over the first `iters` iterations: it starts at `ratio`.
struct Warmup {
  enum class Kind { kNone, kConstant, kLinear, kExp };

  Kind kind = Kind::kNone;
  Count iters = 0;
  double ratio = 1.0;

  bool over(Count iteration) const { return kind == Kind::kNone || iteration >= iters; }
  double factor(Count iteration) const;
};

}  // namespace hookrun::schedule
