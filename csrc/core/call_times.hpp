// How long calls of hooks took: sums, and the latest calls one by one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "events.hpp"

namespace hookrun {

// The number, sum, median and maximum of durations in nanoseconds, in bounded memory.
//
// Durations are counted in intervals: each power of two is divided into 32. So the median is exact
// below 64 ns, and within 1.6 % above.
class CallTimes {
 public:
  void add(std::int64_t nanoseconds) {
    const auto value = static_cast<std::uint64_t>(std::max<std::int64_t>(nanoseconds, 0));
    const std::size_t interval = interval_of(value);
    if (interval >= counts_.size()) counts_.resize(interval + 1);
    ++counts_[interval];
    minimum_ = calls_ == 0 ? value : std::min(minimum_, value);
    maximum_ = std::max(maximum_, value);
    total_ += value;
    ++calls_;
  }

  std::uint64_t calls() const { return calls_; }
  std::uint64_t total() const { return total_; }
  std::uint64_t maximum() const { return maximum_; }

  // 0 if there are none.
  std::uint64_t median() const {
    if (calls_ == 0) return 0;
    const std::uint64_t low = at_rank((calls_ - 1) / 2), high = at_rank(calls_ / 2);
    return low + (high - low) / 2;
  }

 private:
  static constexpr int kBits = 5;
  static constexpr std::uint64_t kParts = std::uint64_t{1} << kBits;

  // Below 2 * kParts, each value is an interval of its own.
  static std::size_t interval_of(std::uint64_t value) {
    if (value < 2 * kParts) return static_cast<std::size_t>(value);
    const int shift = 63 - __builtin_clzll(value) - kBits;
    return static_cast<std::size_t>(static_cast<std::uint64_t>(shift) * kParts + (value >> shift));
  }

  static std::uint64_t middle_of(std::size_t interval) {
    if (interval < 2 * kParts) return interval;
    const std::uint64_t shift = interval / kParts - 1;
    const std::uint64_t begin = (interval % kParts + kParts) << shift;
    return begin + ((std::uint64_t{1} << shift) - 1) / 2;
  }

  // Approximately the value that this many are smaller than.
  std::uint64_t at_rank(std::uint64_t rank) const {
    std::size_t interval = 0;
    for (std::uint64_t seen = counts_[0]; seen <= rank; seen += counts_[interval]) ++interval;
    return std::clamp(middle_of(interval), minimum_, maximum_);
  }

  std::vector<std::uint64_t> counts_;  // by interval
  std::uint64_t calls_ = 0, total_ = 0, minimum_ = 0, maximum_ = 0;
};

// The times of all hooks, by hook and event, and when the latest calls were.
template <class Target>
class CallRecord {
 public:
  struct Row {
    Target hook;
    EventId event;
    CallTimes times;
  };

  struct Span {
    std::size_t row;
    std::int64_t start, duration;  // nanoseconds; since what moment is the caller's business
  };

  // max_spans: how many of the latest calls to keep.
  explicit CallRecord(std::size_t max_spans) : max_spans_(max_spans) {}

  // serial: of the hook's registration, which no other hook has.
  void add(std::size_t serial, const Target& hook, EventId event, std::int64_t start,
           std::int64_t duration) {
    const auto [found, is_new] = numbers_.try_emplace({serial, event}, rows_.size());
    if (is_new) rows_.push_back({hook, event, {}});
    rows_[found->second].times.add(duration);
    if (max_spans_ == 0) return;
    const Span span{found->second, start, duration};
    if (spans_.size() < max_spans_) {
      spans_.push_back(span);
    } else {
      spans_[oldest_] = span;
      oldest_ = (oldest_ + 1) % max_spans_;
    }
  }

  const std::vector<Row>& rows() const { return rows_; }

  // Calls visit(span) for each, from the one that ended first.
  template <class Visit>
  void each_span(Visit&& visit) const {
    for (std::size_t position = 0; position < spans_.size(); ++position) {
      visit(spans_[(oldest_ + position) % spans_.size()]);
    }
  }

  // For garbage collectors.
  template <class Visit>
  int visit(Visit&& visit_target) const {
    for (const Row& row : rows_) {
      if (int code = visit_target(row.hook)) return code;
    }
    return 0;
  }

 private:
  std::size_t max_spans_;
  std::map<std::pair<std::size_t, EventId>, std::size_t> numbers_;  // of rows
  std::vector<Row> rows_;
  std::vector<Span> spans_;
  std::size_t oldest_ = 0;
};

}  // namespace hookrun
