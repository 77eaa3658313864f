// A hash of the 64-bit words of an object, to see whether any of them has changed.
//
// It is NH of the message authentication code UMAC (Black, Halevi, Krawczyk, Krovetz and Rogaway,
// 1999): to each half of a word a key of its own is added, the two are multiplied, and the products
// summed up. Objects that differ have the same hash with a probability of about 2^-32. It needs no
// product of 64-bit numbers, for which SSE2 and AVX2 have no instruction.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace hookrun {

// The keys of up to 32 words: the powers of an odd number without a pattern.
alignas(16) inline constexpr auto kWordKeys = [] {
  std::array<std::uint64_t, 32> keys{};
  std::uint64_t power = 1;
  for (std::uint64_t& key : keys) key = power *= 0x9e3779b97f4a7c15u;
  return keys;
}();

// Of the words from `begin` to `end`, of which there is an even number.
//   masks  one for each word of the object: the bits that count; null for all.
template <std::size_t begin, std::size_t end>
std::uint64_t hash_words(const void* object, const std::uint64_t* masks = nullptr) {
  static_assert((end - begin) % 2 == 0 && end <= kWordKeys.size(), "pairs of words that have keys");
  const auto* bytes = static_cast<const char*>(object);
#if defined(__SSE2__)
  const auto pair = [](const void* from) {
    return _mm_loadu_si128(static_cast<const __m128i*>(from));
  };
  __m128i sums = _mm_setzero_si128();
#pragma GCC unroll 16  // takes a third of the time of a loop
  for (std::size_t i = begin; i < end; i += 2) {
    __m128i words = pair(bytes + 8 * i);
    if (masks != nullptr) words = _mm_and_si128(words, pair(masks + i));
    const __m128i keyed = _mm_add_epi32(words, pair(kWordKeys.data() + i));
    sums = _mm_add_epi64(sums, _mm_mul_epu32(keyed, _mm_srli_epi64(keyed, 32)));
  }
  std::uint64_t parts[2];
  std::memcpy(parts, &sums, sizeof parts);
  return parts[0] + parts[1];
#else
  std::uint64_t sum = 0;
#pragma GCC unroll 32
  for (std::size_t i = begin; i < end; ++i) {
    std::uint64_t word;
    std::memcpy(&word, bytes + 8 * i, sizeof word);
    if (masks != nullptr) word &= masks[i];
    const auto low = static_cast<std::uint32_t>(word + kWordKeys[i]);
    const auto high = static_cast<std::uint32_t>((word >> 32) + (kWordKeys[i] >> 32));
    sum += std::uint64_t{low} * high;
  }
  return sum;
#endif
}

// Prefetches the cache lines of the same words.
template <std::size_t begin, std::size_t end>
void prefetch_words(const void* object) {
  const auto* bytes = static_cast<const char*>(object);
  for (std::size_t at = 8 * begin; at < 8 * end; at += 64) __builtin_prefetch(bytes + at);
  __builtin_prefetch(bytes + 8 * end - 1);  // objects need not begin at a line
}

}  // namespace hookrun
