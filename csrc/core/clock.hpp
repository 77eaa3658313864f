// The counters of a run, and the triggers that are decided from them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace hookrun {

// What a trigger needs to know of a run. Counters count finished steps, so they start at 0.
struct Clock {
  static constexpr std::int64_t kUnknown = -1;
  // Sums and differences of two counters of this size still fit.
  static constexpr std::int64_t kMost = (std::int64_t{1} << 62) - 1;

  std::int64_t epoch = 0;
  std::int64_t iter = 0;
  std::int64_t inner_iter = 0;
  std::int64_t max_epochs = kUnknown;
  std::int64_t max_iters = kUnknown;
  std::int64_t epoch_length = kUnknown;  // batches in the loader at work
  // What schedules that span the run add to `iter` and `max_iters`, so that they do not jump where
  // epochs change their length: those that are done count as if they had had the present length.
  std::int64_t schedule_shift = 0;
  // Iterations that were trained beyond those that `iter` counts: a run that is resumed with larger
  // batches counts fewer.
  std::int64_t uncounted_iters = 0;
  const bool* log_ready = nullptr;  // nullptr: unknown, so ask the hook

  // Iterations done, as a schedule that spans the run counts them. Batches beyond those that a
  // loader has by its length leave it where it is.
  std::int64_t schedule_step() const {
    const bool beyond =
        max_epochs != kUnknown && epoch_length != kUnknown && inner_iter >= epoch_length;
    return iter + schedule_shift - (beyond ? inner_iter - epoch_length + 1 : 0);
  }
  // Those of the whole run.
  std::int64_t schedule_total() const {
    return max_iters == kUnknown ? kUnknown : max_iters + schedule_shift;
  }
};

// When a call is due: any condition that holds is enough. The default is due always.
struct Trigger {
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

  bool always = true;
  std::int64_t every_epochs = 0;  // 0: condition not set
  std::int64_t every_iters = 0;
  std::int64_t every_inner_iters = 0;
  std::int64_t start = 0;  // first epoch or iteration, counted from 1, from which `every` counts
  bool last_epoch = false;
  bool last_iter = false;
  bool end_of_epoch = false;
  std::int64_t end_of_short_epoch = 0;  // at the end of one known to have fewer batches than this
  bool log_ready = false;
  bool once = false;

  bool due(const Clock& clock) const { return distance(clock) == 0; }

  // How many iterations on it is due next, if nothing but the iteration changes.
  std::int64_t distance(const Clock& clock) const {
    if (always) return 0;
    std::int64_t nearest = kNever;
    if (every_iters > 0) nearest = std::min(nearest, to_multiple(clock.iter, every_iters));
    if (every_inner_iters > 0) {
      nearest = std::min(nearest, to_multiple(clock.inner_iter, every_inner_iters));
    }
    if (every_epochs > 0 && to_multiple(clock.epoch, every_epochs) == 0) return 0;
    if (last_epoch && clock.epoch + 1 == clock.max_epochs) return 0;
    if (last_iter) nearest = std::min(nearest, to_last(clock.iter, clock.max_iters));
    if (end_of_epoch) {
      // A loader without a length cannot say which batch is its last: ask the hook.
      if (clock.epoch_length == Clock::kUnknown) return 0;
      nearest = std::min(nearest, to_last(clock.inner_iter, clock.epoch_length));
    }
    if (clock.epoch_length != Clock::kUnknown && clock.epoch_length < end_of_short_epoch) {
      nearest = std::min(nearest, to_last(clock.inner_iter, clock.epoch_length));
    }
    if (log_ready && (clock.log_ready == nullptr || *clock.log_ready)) return 0;
    return nearest;
  }

 private:
  std::int64_t to_multiple(std::int64_t count, std::int64_t period) const {
    const std::int64_t since_start = count + 1 - start;
    if (since_start <= 0) return -since_start;
    const std::int64_t remainder = since_start % period;
    return remainder == 0 ? 0 : period - remainder;
  }

  static std::int64_t to_last(std::int64_t count, std::int64_t length) {
    return count + 1 <= length ? length - 1 - count : kNever;
  }
};

// A stretch of iterations over which a set of triggers is known not to be due, so that an event
// with nothing to do costs one look at the clock however many hooks wait for their interval.
class QuietSpell {
 public:
  // Starts at `clock` and holds for `iterations`.
  void start(const Clock& clock, std::int64_t iterations, bool watch_log) {
    from_ = clock;
    if (__builtin_add_overflow(clock.iter, iterations, &until_)) until_ = Trigger::kNever;
    watch_log_ = watch_log;
  }

  bool holds(const Clock& clock) const {
    return clock.iter < until_ && clock.iter >= from_.iter &&
           clock.iter - clock.inner_iter == from_.iter - from_.inner_iter &&
           clock.epoch == from_.epoch && clock.max_epochs == from_.max_epochs &&
           clock.max_iters == from_.max_iters && clock.epoch_length == from_.epoch_length &&
           clock.log_ready == from_.log_ready && !(watch_log_ && *clock.log_ready);
  }

 private:
  Clock from_;
  std::int64_t until_ = std::numeric_limits<std::int64_t>::min();  // holds nowhere
  bool watch_log_ = false;
};

}  // namespace hookrun
