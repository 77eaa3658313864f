// Learning-rate and momentum schedules: pure functions of the step, in double precision.
//
// hookrun/schedules/policies.py defines them, in the same order of operations, so that both give
// the same bits. Step 0 is a run's first step; what a policy anneals to is its value at step
// `total`, and it stays there.
//
// Constructors throw std::invalid_argument for what makes no schedule: nothing is divided by zero
// or looked for beyond a list later. Milestones beyond the longest run, "for ever", are taken as
// its end, so that no sum of them overflows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace hookrun::schedule {

using Count = std::int64_t;

// The longest run: as Counters::kMaxCount, so that sums and differences of two counts fit.
inline constexpr Count kLongest = (Count{1} << 62) - 1;

enum class Strategy { kCos, kLinear, kOneMinusSqrt };

// A schedule without warm-up.
class Policy {
 public:
  virtual ~Policy() = default;

  // Turns the values that the schedule starts from into those after `step` of `total` steps.
  virtual void apply(double* values, std::size_t count, Count step, Count total) const = 0;

  // Whether `total` is read.
  virtual bool needs_total() const { return false; }

  // Whether only the part of the run that is done counts: then, where epochs change their length,
  // `step` and `total` may be counted in the present length.
  virtual bool spans_run() const { return needs_total(); }

  // Throws std::invalid_argument for steps that no run has.
  double at(double base, Count step, Count total) const;
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
  Step(Count period, double gamma, double minimum);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  Count period_;
  double gamma_, minimum_;
};

class MultiStep : public Policy {
 public:
  MultiStep(std::vector<Count> milestones, double gamma, double minimum);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  std::vector<Count> milestones_;
  double gamma_, minimum_;
};

class Exp : public Policy {
 public:
  explicit Exp(double gamma);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double gamma_;
};

class Inv : public Policy {
 public:
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

class Poly : public TimedPolicy {
 public:
  Poly(double power, double end);
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
  FlatCosineAnnealing(double start_percent, Target target);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  double start_percent_;
  Target target_;
};

class CosineRestart : public Policy {
 public:
  // One weight for each period.
  CosineRestart(std::vector<Count> periods, std::vector<double> weights, Target target);
  void apply(double* values, std::size_t count, Count step, Count total) const override;

 private:
  std::vector<Count> periods_, ends_;
  std::vector<double> weights_;
  Target target_;
};

class Cyclic : public TimedPolicy {
 public:
  Cyclic(double peak, double end, Count times, double up, Strategy strategy, double gamma);
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
           Count total_steps);
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
  WSD(Count decay_steps, double decay_ratio, Strategy strategy, Target target);
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
  Sequential(std::vector<PolicyPtr> policies, std::vector<Count> milestones);
  void apply(double* values, std::size_t count, Count step, Count total) const override;
  bool needs_total() const override { return policies_.back()->needs_total(); }
  bool spans_run() const override { return false; }  // milestones are iterations as they happen

 private:
  std::vector<PolicyPtr> policies_;
  std::vector<Count> milestones_;
};

// The factor on a schedule's value over the first `iters` iterations: it starts at `ratio`.
struct Warmup {
  enum class Kind { kNone, kConstant, kLinear, kExp };

  Warmup() = default;
  Warmup(Kind kind, Count iters, double ratio);

  Kind kind = Kind::kNone;
  Count iters = 0;
  double ratio = 1.0;

  bool over(Count iteration) const { return kind == Kind::kNone || iteration >= iters; }
  double factor(Count iteration) const;
};

}  // namespace hookrun::schedule
