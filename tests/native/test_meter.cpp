#include <cmath>

#include "check.hpp"
#include "core/meter.hpp"

using hookrun::Meter;

TEST(averages_are_weighted) {
  Meter meter(8);
  meter.push(1.0, 1.0);
  meter.push(4.0, 3.0);
  CHECK(meter.average(0) == 13.0 / 4.0);
  CHECK(meter.average(1) == 4.0);
}

TEST(asking_for_more_than_there_is_averages_everything) {
  Meter meter(8);
  meter.push(2.0, 1.0);
  CHECK(meter.average(5) == 2.0);
}

TEST(the_latest_values_survive_the_ring) {
  Meter meter(4);
  for (int value = 0; value < 11; ++value) meter.push(value, 1.0);
  CHECK(meter.average(4) == 8.5);
  CHECK(meter.average(2) == 9.5);
  CHECK(meter.average(0) == 5.0);  // of all, though most are gone
  CHECK(meter.average(7) == 8.5);  // of those that are kept
  CHECK(meter.history().size() == 4);
  CHECK(meter.history().front().value == 7.0);
}

TEST(widening_keeps_the_order) {
  Meter meter(3);
  for (int value = 0; value < 5; ++value) meter.push(value, 1.0);
  meter.widen(5);
  meter.push(5.0, 1.0);
  CHECK(meter.history().size() == 4);
  CHECK(meter.average(3) == 4.0);
  CHECK(meter.average(4) == 3.5);
}

TEST(a_window_is_bounded) {
  Meter meter(1);
  meter.widen(1u << 30);
  for (std::size_t i = 0; i < 2 * Meter::kMaxWindow; ++i) meter.push(1.0, 1.0);
  CHECK(meter.history().size() == Meter::kMaxWindow);
}

TEST(weights_of_zero_average_to_nan) {
  Meter meter(4);
  CHECK(std::isnan(meter.average(0)));
  meter.push(1.0, 0.0);
  CHECK(std::isnan(meter.average(1)));
}

TEST(sums_count_in_the_average_of_everything) {
  Meter meter(4);
  meter.add_totals(10.0, 5.0, 5);
  meter.push(8.0, 1.0);
  CHECK(meter.average(0) == 3.0);
  CHECK(meter.average(1) == 8.0);
}
