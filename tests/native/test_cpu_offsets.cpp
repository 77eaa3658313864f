// Where elements past 2^31 lie: by arithmetic, as their memory is not at hand.
#include <cstdint>
#include <vector>

#define HOOKRUN_ISA offsets_test
#include "check.hpp"
#include "cpu/chunks.hpp"

using namespace hookrun::cpu;

namespace {

constexpr std::int64_t kHuge = (std::int64_t{3} << 31) + 5;

struct Piece {
  std::int64_t row, first, count;
};

std::vector<Piece> pieces_of(const TensorList& list, std::int64_t chunk) {
  std::vector<Piece> pieces;
  offsets_test::for_each_piece(list, chunk,
                               [&](std::int64_t row, std::int64_t first, std::int64_t count) {
                                 pieces.push_back({row, first, count});
                               });
  return pieces;
}

}  // namespace

TEST(pieces_past_2_to_the_31st_element) {
  std::vector<Row> rows(3);
  rows[0].numel = 100;
  rows[1].numel = kHuge;
  rows[2].numel = 7;
  const TensorList list = number_rows(rows.data(), 3);
  CHECK(list.chunks() == (128 + kHuge + 59 + 64 + kChunk - 1) / kChunk);

  const std::vector<Piece> first = pieces_of(list, 0);
  CHECK(first.size() == 2);
  CHECK(first[1].row == 1 && first[1].first == 0 && first[1].count == kChunk - 128);

  const std::int64_t middle = (std::int64_t{1} << 31) / kChunk + 1;
  const std::vector<Piece> inside = pieces_of(list, middle);
  CHECK(inside.size() == 1);
  CHECK(inside[0].first == middle * kChunk - 128 && inside[0].count == kChunk);

  const std::vector<Piece> last = pieces_of(list, list.chunks() - 1);
  CHECK(last.size() == 2);
  CHECK(last[0].row == 1 && last[0].first + last[0].count == kHuge);
  CHECK(last[1].row == 2 && last[1].first == 0 && last[1].count == 7);
}

TEST(addresses_past_2_to_the_31st_element) {
  Row row;
  row.address[0] = reinterpret_cast<void*>(std::uintptr_t{4096});
  const auto address = reinterpret_cast<std::uintptr_t>(row.at<float>(0, kHuge));
  CHECK(address == 4096 + 4 * static_cast<std::uintptr_t>(kHuge));
}
