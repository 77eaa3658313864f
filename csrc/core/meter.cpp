#include "meter.hpp"

#include <algorithm>
#include <limits>

namespace hookrun {

double Meter::average(std::size_t n) const {
  double sum = total_;
  double count = total_count_;
  if (n > 0 && static_cast<std::int64_t>(n) < pushes_) {
    sum = count = 0.0;
    const std::size_t kept = samples_.size();
    const std::size_t wanted = std::min(n, kept);
    for (std::size_t back = wanted; back > 0; --back) {
      const Sample& sample = samples_[(oldest_ + kept - back) % kept];
      sum += sample.value * sample.count;
      count += sample.count;
    }
  }
  return count == 0.0 ? std::numeric_limits<double>::quiet_NaN() : sum / count;
}

std::vector<Meter::Sample> Meter::history() const {
  std::vector<Sample> ordered(samples_.begin() + static_cast<std::ptrdiff_t>(oldest_),
                              samples_.end());
  ordered.insert(ordered.end(), samples_.begin(),
                 samples_.begin() + static_cast<std::ptrdiff_t>(oldest_));
  return ordered;
}

void Meter::widen(std::size_t window) {
  window = std::min(window, kMaxWindow);
  if (window <= window_) return;
  samples_ = history();
  oldest_ = 0;
  window_ = window;
}

}  // namespace hookrun
