// A weighted running average in bounded memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace hookrun {

// Keeps the sums of all values since the last clear, and the latest `window` values themselves.
class Meter {
 public:
  static constexpr std::size_t kMaxWindow = 10000;

  struct Sample {
    double value;
    double count;
  };

  explicit Meter(std::size_t window) : window_(window) {}

  void push(double value, double count) {
    add_totals(value * count, count, 1);
    if (samples_.size() < window_) {
      samples_.push_back({value, count});
    } else if (window_ > 0) {
      samples_[oldest_] = {value, count};
      if (++oldest_ == window_) oldest_ = 0;
    }
  }

  // Adds values of which only the sums are known: they count in the average of all values.
  void add_totals(double weighted_sum, double count, std::int64_t pushes) {
    total_ += weighted_sum;
    total_count_ += count;
    pushes_ += pushes;
  }

  bool empty() const { return pushes_ == 0; }

  // The weighted sum of all values, and the sum of their weights.
  double total() const { return total_; }
  double total_count() const { return total_count_; }

  // The average of the latest `n` values (0: of all values), each weighted with its count. If fewer
  // than `n` are still kept, of those kept. NaN if the counts add up to zero.
  double average(std::size_t n) const;

  // The values still kept, oldest first.
  std::vector<Sample> history() const;

  // Keeps at least `window` values from now on, but never more than kMaxWindow: memory is bounded.
  void widen(std::size_t window);

 private:
  std::size_t window_;
  std::size_t oldest_ = 0;
  std::int64_t pushes_ = 0;
  double total_ = 0.0;
  double total_count_ = 0.0;
  std::vector<Sample> samples_;
};

}  // namespace hookrun
