#include <array>
#include <cstdint>
#include <random>
#include <set>
#include <utility>

#include "check.hpp"
#include "core/word_hash.hpp"

using hookrun::hash_words;

namespace {

using Words = std::array<std::uint64_t, 22>;

Words random_words(std::mt19937_64& random) {
  Words words;
  for (std::uint64_t& word : words) word = random();
  return words;
}

std::uint64_t hash(const Words& words) { return hash_words<2, 22>(words.data()); }

// As it is defined, one word at a time.
std::uint64_t by_definition(const Words& words, const std::uint64_t* masks) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::uint64_t word = masks == nullptr ? words[i] : words[i] & masks[i];
    const std::uint64_t key = hookrun::kWordKeys[i];
    const auto low = static_cast<std::uint32_t>(word) + static_cast<std::uint32_t>(key);
    const auto high =
        static_cast<std::uint32_t>(word >> 32) + static_cast<std::uint32_t>(key >> 32);
    sum += std::uint64_t{low} * high;
  }
  return sum;
}

}  // namespace

TEST(a_word_hash_is_what_it_is_defined_as) {
  std::mt19937_64 random(1);
  for (int trial = 0; trial < 1000; ++trial) {
    const Words words = random_words(random), masks = random_words(random);
    const std::uint64_t all = hash_words<0, 22>(words.data());
    const std::uint64_t masked = hash_words<0, 22>(words.data(), masks.data());
    CHECK(all == by_definition(words, nullptr));
    CHECK(masked == by_definition(words, masks.data()));
  }
}

TEST(every_bit_of_the_words_counts_and_no_other) {
  std::mt19937_64 random(2);
  const Words words = random_words(random);
  for (std::size_t i = 0; i < words.size(); ++i) {
    for (int bit = 0; bit < 64; ++bit) {
      Words changed = words;
      changed[i] ^= std::uint64_t{1} << bit;
      CHECK((hash(changed) == hash(words)) == (i < 2));
    }
  }
}

TEST(small_numbers_in_other_places_have_other_hashes) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t a = 0; a < 12; ++a) {
    for (std::uint64_t b = 0; b < 12; ++b) {
      for (std::uint64_t c = 0; c < 12; ++c) {
        for (std::uint64_t d = 0; d < 12; ++d) {
          Words words{};
          words[8] = a, words[9] = b, words[13] = c, words[14] = d;
          seen.insert(hash(words));
        }
      }
    }
  }
  CHECK(seen.size() == 12 * 12 * 12 * 12);
}

TEST(addresses_near_each_other_have_other_hashes) {
  std::mt19937_64 random(3);
  Words words = random_words(random);
  std::set<std::uint64_t> seen;
  for (std::uint64_t at = 0; at < 100'000; ++at) {
    words[2] = 0x7f5a'1000'0000 + 64 * at;
    seen.insert(hash(words));
  }
  CHECK(seen.size() == 100'000);
}

TEST(masked_bits_do_not_count) {
  std::mt19937_64 random(4);
  const Words words = random_words(random);
  Words masks = random_words(random), other = words;
  for (std::size_t i = 0; i < words.size(); ++i) other[i] ^= random() & ~masks[i];
  const std::uint64_t before = hash_words<0, 22>(words.data(), masks.data());
  CHECK(before == (hash_words<0, 22>(other.data(), masks.data())));
}
