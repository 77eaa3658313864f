// convert: to = from, rounded to nearest even in to's dtype.
//
// What is written is not read, so large outputs go past the caches: an ordinary store would first
// read the line that it overwrites.
#include "chunks.hpp"
#include "kernels.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

inline void stream(char* to, const char* bytes) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(bytes));
#elif defined(__AVX2__)
  for (int i = 0; i < 64; i += 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + i)));
  }
#elif defined(__SSE2__)
  for (int i = 0; i < 64; i += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i)));
  }
#else
  __builtin_memcpy(to, bytes, 64);
#endif
}

template <class To, class From>
void copy_piece(To* to, const From* from, std::int64_t count) {
  using Real = Arithmetic<To, From>;
  for_each_vector<Real>(count, [&](std::int64_t i, auto lanes) {
    prefetch(from + i);
    store(to + i, load<Real>(from + i, lanes), lanes);
  });
}

// How many bytes come before the first whole cache line.
inline std::int64_t bytes_to_line(const void* to) {
  return static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(to) % 64);
}

// A cache line at a time, after the elements before the first whole line.
template <class To, class From>
void stream_piece(To* to, const From* from, std::int64_t count) {
  constexpr std::int64_t kLine = 64 / sizeof(To);
  std::int64_t head = bytes_to_line(to) / std::int64_t{sizeof(To)};
  if (bytes_to_line(to) % sizeof(To) != 0 || head > count) head = count;
  copy_piece(to, from, head);
  std::int64_t i = head;
  for (; i + kLine <= count; i += kLine) {
    alignas(64) To line[kLine];
    copy_piece(line, from + i, kLine);
    stream(reinterpret_cast<char*>(to + i), reinterpret_cast<const char*>(line));
  }
  copy_piece(to + i, from + i, count - i);
  finish_streams();
}

void stream_bytes(char* to, const char* from, std::int64_t count) {
  std::int64_t i = bytes_to_line(to);
  if (i > count) i = count;
  __builtin_memcpy(to, from, static_cast<std::size_t>(i));
  for (; i + 64 <= count; i += 64) stream(to + i, from + i);
  __builtin_memcpy(to + i, from + i, static_cast<std::size_t>(count - i));
  finish_streams();
}

void copy_bytes(char* to, const char* from, std::int64_t count, bool streaming) {
  if (streaming) {
    stream_bytes(to, from, count);
  } else {
    __builtin_memcpy(to, from, static_cast<std::size_t>(count));
  }
}

template <class To, class From>
void convert_piece(To* to, const From* from, std::int64_t count, bool streaming) {
  if (streaming) {
    stream_piece(to, from, count);
  } else {
    copy_piece(to, from, count);
  }
}

}  // namespace

void convert(const TensorList& list, int threads) {
  parallel_pieces(list, threads, [&](std::int64_t r, std::int64_t first, std::int64_t count) {
    const Row& row = list.rows[r];
    const std::int64_t size = row.item_size;
    const bool streaming = streams(list, size);
    if (row.dtype[0] == row.dtype[1]) {  // any dtype
      copy_bytes(row.at<char>(0, first * size), row.at<char>(1, first * size), count * size,
                 streaming);
      return;
    }
    with_type(row.dtype[0], [&](auto to) {
      with_type(row.dtype[1], [&](auto from) {
        convert_piece(row.at<decltype(to)>(0, first), row.at<decltype(from)>(1, first), count,
                      streaming);
      });
    });
  });
}

}  // namespace hookrun::cpu::HOOKRUN_ISA
