#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "core/call_times.hpp"

using hookrun::CallRecord;
using hookrun::CallTimes;

TEST(times_of_nothing) {
  const CallTimes times;
  CHECK(times.calls() == 0 && times.total() == 0 && times.median() == 0 && times.maximum() == 0);
}

TEST(small_times_are_exact) {
  CallTimes times;
  for (const std::int64_t value : {63, 1, 0, 40, 2}) times.add(value);
  CHECK(times.calls() == 5);
  CHECK(times.total() == 106);
  CHECK(times.median() == 2);
  CHECK(times.maximum() == 63);
  times.add(4);  // an even number of them: between the two in the middle
  CHECK(times.median() == 3);
}

TEST(one_value_is_its_own_median) {
  for (const std::int64_t value : {std::int64_t{1}, std::int64_t{1001}, std::int64_t{1} << 40,
                                   std::numeric_limits<std::int64_t>::max()}) {
    CallTimes times;
    for (int call = 0; call < 3; ++call) times.add(value);
    CHECK(times.median() == static_cast<std::uint64_t>(value));
    CHECK(times.maximum() == static_cast<std::uint64_t>(value));
  }
}

TEST(a_clock_that_goes_back_counts_as_no_time) {
  CallTimes times;
  times.add(-5);
  CHECK(times.calls() == 1 && times.total() == 0 && times.maximum() == 0);
}

TEST(the_median_is_near_the_true_one) {
  std::mt19937_64 random(1);
  for (int trial = 0; trial < 200; ++trial) {
    CallTimes times;
    std::vector<std::uint64_t> values;
    const int bits = 1 + static_cast<int>(random() % 50);
    const std::size_t count = 1 + random() % 40;
    for (std::size_t index = 0; index < count; ++index) {
      values.push_back(random() >> (63 - random() % static_cast<std::uint64_t>(bits)));
      times.add(static_cast<std::int64_t>(values.back()));
    }
    std::sort(values.begin(), values.end());
    const std::uint64_t low = values[(count - 1) / 2], high = values[count / 2];
    const double error = 1.0 / 64;
    CHECK(times.maximum() == values.back());
    CHECK(static_cast<double>(times.median()) >= static_cast<double>(low) * (1 - error) / 2 +
                                                     static_cast<double>(high) * (1 - error) / 2 -
                                                     1);
    CHECK(static_cast<double>(times.median()) <= static_cast<double>(low) * (1 + error) / 2 +
                                                     static_cast<double>(high) * (1 + error) / 2 +
                                                     1);
  }
}

TEST(records_are_by_registration_and_event) {
  CallRecord<int> record(0);
  record.add(7, 70, hookrun::kBeforeRun, 0, 5);
  record.add(8, 80, hookrun::kBeforeRun, 5, 1);
  record.add(7, 70, hookrun::kAfterRun, 6, 2);
  record.add(7, 70, hookrun::kBeforeRun, 8, 4);
  CHECK(record.rows().size() == 3);
  CHECK(record.rows()[0].hook == 70 && record.rows()[0].times.calls() == 2);
  CHECK(record.rows()[0].times.total() == 9);
  CHECK(record.rows()[1].hook == 80 && record.rows()[1].times.calls() == 1);
  CHECK(record.rows()[2].event == hookrun::kAfterRun);
  int spans = 0;
  record.each_span([&](const auto&) { ++spans; });
  CHECK(spans == 0);
}

TEST(the_latest_spans_are_kept_in_order) {
  for (const int calls : {0, 1, 3, 4, 10}) {
    CallRecord<int> record(3);
    for (int call = 0; call < calls; ++call) record.add(1, 1, hookrun::kBeforeRun, call, 1);
    std::vector<std::int64_t> starts;
    record.each_span([&](const auto& span) { starts.push_back(span.start); });
    CHECK(starts.size() == static_cast<std::size_t>(std::min(calls, 3)));
    for (std::size_t index = 0; index < starts.size(); ++index) {
      CHECK(starts[index] == calls - static_cast<int>(starts.size() - index));
    }
  }
}
