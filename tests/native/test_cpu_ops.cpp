// The CPU kernels on arrays that end exactly where their tensors do, for the sanitizers to watch.
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "check.hpp"
#include "cpu/ops.hpp"

using namespace hookrun::cpu;

namespace {

const std::int64_t kSizes[] = {0, 1, 3, 15, 17, 64, 1000, kChunk - 1, kChunk, kChunk + 1, 0};

// Tables of fp32 columns, each tensor in a heap block of its own size.
struct Table {
  std::vector<Row> rows;
  std::vector<std::unique_ptr<float[]>> blocks;

  explicit Table(int columns) {
    float value = 0.5f;
    for (const std::int64_t size : kSizes) {
      Row row;
      row.numel = size;
      row.item_size = sizeof(float);
      for (int c = 0; c < columns; ++c) {
        blocks.emplace_back(new float[static_cast<std::size_t>(size)]);
        for (std::int64_t i = 0; i < size; ++i) blocks.back()[i] = value += 0.0001f;
        row.address[c] = blocks.back().get();
        row.dtype[c] = DType::kFloat32;
      }
      rows.push_back(row);
    }
  }

  TensorList list() { return number_rows(rows.data(), static_cast<std::int64_t>(rows.size())); }
  float& at(std::size_t row, int column, std::int64_t i) {
    return rows[row].at<float>(column, 0)[i];
  }

  template <class Visit>
  void each(Visit&& visit) {
    for (std::size_t r = 0; r < rows.size(); ++r) {
      for (std::int64_t i = 0; i < rows[r].numel; ++i) visit(r, i);
    }
  }
};

bool near(float a, double b) { return std::fabs(a - b) <= 1e-5 * (1.0 + std::fabs(b)); }

template <class Run>
void on_each_isa(Run&& run) {
  for (const char* isa : {"portable", "avx2", "avx512"}) {
    if (use_isa(isa)) run(ops());
  }
  use_isa(nullptr);
}

}  // namespace

TEST(rows_begin_at_cache_lines_and_lists_may_be_longer_than_32_bits) {
  std::vector<Row> rows(3);
  rows[0].numel = 1;
  rows[1].numel = (std::int64_t{1} << 33) + 1;
  const TensorList list = number_rows(rows.data(), 3);
  CHECK(rows[1].start == kRowAlignment);
  CHECK(rows[2].start == (std::int64_t{1} << 33) + 2 * kRowAlignment);
  CHECK(list.chunks() == (std::int64_t{1} << 33) / kChunk + 1);
  CHECK(number_rows(nullptr, 0).chunks() == 0);
}

TEST(the_norm_does_not_depend_on_threads) {
  on_each_isa([](const Ops& ops) {
    Table table(1);
    const TensorList list = table.list();
    double exact = 0.0;
    table.each([&](std::size_t r, std::int64_t i) {
      exact += static_cast<double>(table.at(r, 0, i)) * table.at(r, 0, i);
    });
    std::vector<double> partials(static_cast<std::size_t>(list.chunks()));
    const double one = ops.sum_of_squares(list, partials.data(), 1);
    CHECK(std::fabs(one / exact - 1.0) < 1e-12);
    CHECK(ops.sum_of_squares(list, partials.data(), 3) == one);
  });
}

TEST(unscale_ema_and_swap) {
  on_each_isa([](const Ops& ops) {
    Table table(2);
    Table before(2);
    CHECK(ops.unscale(table.list(), 0.5f, 2));
    ops.ema(table.list(), 0.25f, 2);
    ops.swap(table.list(), 2);
    table.each([&](std::size_t r, std::int64_t i) {
      CHECK(table.at(r, 0, i) == before.at(r, 1, i));
      CHECK(near(table.at(r, 1, i), 0.375 * before.at(r, 0, i) + 0.25 * before.at(r, 1, i)));
    });
    table.at(6, 0, 999) = INFINITY;
    CHECK(!ops.unscale(table.list(), 0.5f, 2));
  });
}

TEST(sgd_and_adam_take_a_step) {
  on_each_isa([](const Ops& ops) {
    Table table(5);
    Table before(5);
    SgdGroup group;
    group.lr = 0.1;
    group.momentum = 0.9;
    const StepOptions options{2.0, 0.5};
    ops.sgd(table.list(), &group, options, 2);
    table.each([&](std::size_t r, std::int64_t i) {
      const double momentum = 0.9 * before.at(r, 2, i) + 2.0 * before.at(r, 1, i);
      const double param = before.at(r, 0, i) - 0.1 * momentum;
      CHECK(near(table.at(r, kParam, i), param));
      CHECK(near(table.at(r, kSgdMomentum, i), momentum));
      CHECK(table.at(r, kSgdCopy, i) == table.at(r, kParam, i));
      CHECK(near(table.at(r, kSgdEma, i), 0.5 * (before.at(r, 4, i) + param)));
    });

    Table adam(4);
    AdamGroup adam_group;
    adam_group.one_minus_beta1 = 0.1;
    adam_group.beta2 = 0.9;
    adam_group.one_minus_beta2 = 0.1;
    adam_group.eps = 1.0f;
    const std::vector<AdamBiasCorrections> corrections(adam.rows.size(), {0.5, 2.0});
    Table old(4);
    ops.adam(adam.list(), &adam_group, corrections.data(), StepOptions{}, 2);
    adam.each([&](std::size_t r, std::int64_t i) {
      const double grad = old.at(r, kGrad, i);
      const double mean = 0.9 * old.at(r, kAdamMean, i) + 0.1 * grad;
      const double square = 0.9 * old.at(r, kAdamSquare, i) + 0.1 * grad * grad;
      const double step = 0.5 * mean / (2.0 * std::sqrt(square) + 1.0);
      CHECK(near(adam.at(r, kParam, i), old.at(r, kParam, i) - step));
    });
  });
}

TEST(convert_rounds_into_blocks_of_the_exact_size) {
  on_each_isa([](const Ops& ops) {
    Table table(2);
    std::vector<std::unique_ptr<std::uint16_t[]>> halves;
    for (Row& row : table.rows) {
      halves.emplace_back(new std::uint16_t[static_cast<std::size_t>(row.numel)]);
      row.address[0] = halves.back().get();
      row.dtype[0] = DType::kBFloat16;
      row.item_size = 2;
      for (std::int64_t i = 0; i < row.numel; ++i) row.at<float>(1, 0)[i] = 1.0f;
    }
    ops.convert(table.list(), 2);
    table.each([&](std::size_t r, std::int64_t i) { CHECK(halves[r][i] == 0x3f80); });
  });
}
