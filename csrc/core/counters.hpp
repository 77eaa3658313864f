// The counters of a run, and the triggers that are decided from them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace hookrun {

// What triggers and schedules read of a run. Counters count finished steps, so they start at 0.
struct Counters {
  static constexpr std::int64_t kUnknown = -1;
  // Sums and differences of two counters of this size still fit.
  static constexpr std::int64_t kMaxCount = (std::int64_t{1} << 62) - 1;

  std::int64_t epoch = 0;
  std::int64_t iter = 0;
  std::int64_t inner_iter = 0;
  std::int64_t max_epochs = kUnknown;
  std::int64_t max_iters = kUnknown;
  std::int64_t epoch_length = kUnknown;  // batches in the current loader
  // What schedules over the whole run add to `iter` and `max_iters`. Where the length of epochs
  // changes, finished epochs count as if they had had the present length, so that the schedule does
  // not jump.
  std::int64_t schedule_shift = 0;
  // Trained iterations that `iter` does not count: resuming with larger batches rescales `iter`.
  std::int64_t uncounted_iters = 0;
  const bool* log_ready = nullptr;  // nullptr: unknown, so call the hook, which checks itself

  // Iterations done, as a schedule over the whole run counts them. Batches beyond the loader's
  // length do not advance it.
  std::int64_t schedule_step() const {
    const bool beyond =
        max_epochs != kUnknown && epoch_length != kUnknown && inner_iter >= epoch_length;
    return iter + schedule_shift - (beyond ? inner_iter - epoch_length + 1 : 0);
  }
  // Iterations of the run, counted in the same way.
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

  bool due(const Counters& counters) const { return distance(counters) == 0; }

  // Iterations until it is next due, if nothing but the iteration counters changes.
  std::int64_t distance(const Counters& counters) const {
    if (always) return 0;
    std::int64_t nearest = kNever;
    if (every_iters > 0) nearest = std::min(nearest, to_multiple(counters.iter, every_iters));
    if (every_inner_iters > 0) {
      nearest = std::min(nearest, to_multiple(counters.inner_iter, every_inner_iters));
    }
    if (every_epochs > 0 && to_multiple(counters.epoch, every_epochs) == 0) return 0;
    if (last_epoch && counters.epoch + 1 == counters.max_epochs) return 0;
    if (last_iter) nearest = std::min(nearest, to_last(counters.iter, counters.max_iters));
    if (end_of_epoch) {
      // Without a length, the last batch is unknown: call the hook, which checks itself.
      if (counters.epoch_length == Counters::kUnknown) return 0;
      nearest = std::min(nearest, to_last(counters.inner_iter, counters.epoch_length));
    }
    if (counters.epoch_length != Counters::kUnknown && counters.epoch_length < end_of_short_epoch) {
      nearest = std::min(nearest, to_last(counters.inner_iter, counters.epoch_length));
    }
    if (log_ready && (counters.log_ready == nullptr || *counters.log_ready)) return 0;
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

// A range of iterations in which none of a set of triggers is due. Within it, an event costs one
// comparison of counters, however many hooks wait for their interval.
class IdleWindow {
 public:
  // Begins at `counters` and lasts `iterations`; `watch_log`: or until the log is ready.
  void start(const Counters& counters, std::int64_t iterations, bool watch_log) {
    from_ = counters;
    if (__builtin_add_overflow(counters.iter, iterations, &until_)) until_ = Trigger::kNever;
    watch_log_ = watch_log;
  }

  bool holds(const Counters& counters) const {
    return counters.iter < until_ && counters.iter >= from_.iter &&
           counters.iter - counters.inner_iter == from_.iter - from_.inner_iter &&
           counters.epoch == from_.epoch && counters.max_epochs == from_.max_epochs &&
           counters.max_iters == from_.max_iters && counters.epoch_length == from_.epoch_length &&
           counters.log_ready == from_.log_ready && !(watch_log_ && *counters.log_ready);
  }

 private:
  Counters from_;
  std::int64_t until_ = std::numeric_limits<std::int64_t>::min();  // holds nowhere
  bool watch_log_ = false;
};

}  // namespace hookrun
