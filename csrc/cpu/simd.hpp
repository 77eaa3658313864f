// Vectors of fp32 or fp64 numbers as wide as the instruction set that this file is compiled for.
//
// Arithmetic is what the compiler's vector types give: + - * / per element, with scalars too. It is
// in fp64 where an operand is stored so, else in fp32: fp16 and bf16 are storage only. A kernel is
// written once, for whole vectors (`Full`) and for the few elements at the end (`Part`) alike.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

#if defined(__AVX512F__)
constexpr std::int64_t kWidth = 16;
#elif defined(__AVX2__)
constexpr std::int64_t kWidth = 8;
#else
constexpr std::int64_t kWidth = 4;
#endif

typedef float F32 __attribute__((vector_size(4 * kWidth)));
typedef std::uint32_t U32 __attribute__((vector_size(4 * kWidth)));
typedef std::uint16_t U16 __attribute__((vector_size(2 * kWidth)));
typedef double F64 __attribute__((vector_size(4 * kWidth)));  // half as many numbers
typedef float F32OfF64 __attribute__((vector_size(2 * kWidth)));

struct Half {
  std::uint16_t bits;
};
struct BFloat {
  std::uint16_t bits;
};

template <class To, class From>
inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "same bits");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

// The type of arithmetic for numbers stored as T...
template <class... T>
struct ArithmeticOf {
  using type = float;
};
template <class... Rest>
struct ArithmeticOf<double, Rest...> {
  using type = double;
};
template <class First, class... Rest>
struct ArithmeticOf<First, Rest...> : ArithmeticOf<Rest...> {};
template <class... T>
using Arithmetic = typename ArithmeticOf<T...>::type;

template <class Real>
struct Lanes;
template <>
struct Lanes<float> {
  using Vector = F32;
  static constexpr std::int64_t count = kWidth;
};
template <>
struct Lanes<double> {
  using Vector = F64;
  static constexpr std::int64_t count = kWidth / 2;
};
template <class Real>
using Vector = typename Lanes<Real>::Vector;

inline F32 square_root(F32 x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  for (std::int64_t i = 0; i < kWidth; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
inline F64 square_root(F64 x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_pd(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_pd(x);
#else
  for (std::int64_t i = 0; i < kWidth / 2; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

// from + weight * (to - from), exact at both ends: torch's lerp.
template <class V, class Real>
inline V lerp(V from, V to, Real weight) {
  const V difference = to - from;
  return weight < Real(0.5) ? from + difference * weight : to - difference * (Real(1) - weight);
}

struct F64Pair {
  F64 low;
  F64 high;
};

inline F64Pair widen(F32 x) {
#if defined(__AVX512F__)
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
          _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
#elif defined(__AVX2__)
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
#else
  return {F64{x[0], x[1]}, F64{x[2], x[3]}};
#endif
}

// --- fp16 and bf16 ---

inline F32 widen(U16 raw, BFloat) { return bits_as<F32>(__builtin_convertvector(raw, U32) << 16); }

// To nearest, ties to even; any NaN becomes the quiet one. The upper halves are bf16 numbers.
inline U32 round_bits(F32 x, BFloat) {
  const U32 bits = bits_as<U32>(x);
  const U32 rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const U32 nan = bits_as<U32>(x != x);
  return (rounded & ~nan) | (nan & 0x7fc00000u);
}
inline U16 narrow(F32 x, BFloat) {
  return __builtin_convertvector(round_bits(x, BFloat{}) >> 16, U16);
}

#if defined(__AVX512F__)
inline F32 widen(U16 raw, Half) { return _mm512_cvtph_ps(bits_as<__m256i>(raw)); }
inline U16 narrow(F32 x, Half) {
  return bits_as<U16>(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__AVX2__)
inline F32 widen(U16 raw, Half) { return _mm256_cvtph_ps(bits_as<__m128i>(raw)); }
inline U16 narrow(F32 x, Half) {
  return bits_as<U16>(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
// Subnormal fp16 numbers are scaled up by exact fp32 arithmetic, others by moving the exponent.
inline F32 widen(U16 raw, Half) {
  const U32 half = __builtin_convertvector(raw, U32);
  const U32 sign = (half & 0x8000u) << 16;
  const U32 rest = (half & 0x7fffu) << 13;  // exponent and fraction in fp32's places
  const U32 normal = rest + (112u << 23);
  const U32 special = rest + (224u << 23);  // inf and NaN
  const U32 small =
      bits_as<U32>(bits_as<F32>(rest + (113u << 23)) - bits_as<F32>(U32{} + (113u << 23)));
  const U32 is_special = bits_as<U32>(rest >= (0x7c00u << 13));
  const U32 is_small = bits_as<U32>(rest < (0x0400u << 13));
  return bits_as<F32>(sign | (special & is_special) | (small & is_small) |
                      (normal & ~is_special & ~is_small));
}

// To nearest, ties to even. The sum with a power of two puts the last bit that fp16 keeps at the
// end of the fp32 fraction, where the addition rounds.
inline U16 narrow(F32 x, Half) {
  const U32 bits = bits_as<U32>(x);
  const U32 sign = (bits >> 16) & 0x8000u;
  const U32 rest = bits & 0x7fffffffu;
  const U32 normal = (rest - (112u << 23) + 0xfffu + ((rest >> 13) & 1u)) >> 13;
  const U32 small = bits_as<U32>(bits_as<F32>(rest) + 0.5f) - (126u << 23);
  const U32 is_small = bits_as<U32>(rest < (113u << 23));
  const U32 overflows = bits_as<U32>(rest >= 0x477ff000u);  // rounds to 2^16 or more, or is inf
  const U32 is_nan = bits_as<U32>(rest > 0x7f800000u);
  const U32 finite = (small & is_small) | (normal & ~is_small);
  const U32 half = (finite & ~overflows) | (overflows & ~is_nan & 0x7c00u) | (is_nan & 0x7e00u);
  return __builtin_convertvector(sign | half, U16);
}
#endif

// --- memory ---

struct Full {};
struct Part {
  std::int64_t count;  // fewer than a whole vector has
};

template <class Raw, class T>
inline Raw read(const T* from) {
  Raw raw;
  __builtin_memcpy(&raw, from, sizeof raw);
  return raw;
}

// Reads the numbers at `from` as a vector for arithmetic in Real.
inline F32 load_all(const float* from, float) { return read<F32>(from); }
inline F64 load_all(const double* from, double) { return read<F64>(from); }
inline F32 load_all(const double* from, float) {  // rounded
  const F32OfF64 halves[] = {__builtin_convertvector(read<F64>(from), F32OfF64),
                             __builtin_convertvector(read<F64>(from + kWidth / 2), F32OfF64)};
  return bits_as<F32>(halves);
}
template <class T>
inline F32 load_all(const T* from, float) {
  return widen(read<U16>(from), T{});
}
template <class T>
inline F64 load_all(const T* from, double) {
  T padded[kWidth] = {};
  __builtin_memcpy(padded, from, kWidth / 2 * sizeof(T));
  return widen(load_all(padded, 0.0f)).low;
}
template <class Real, class T>
inline Vector<Real> load(const T* from, Full) {
  return load_all(from, Real{});
}
template <class Real, class T>
inline Vector<Real> load(const T* from, Part part) {
  T padded[Lanes<Real>::count] = {};
  __builtin_memcpy(padded, from, static_cast<std::size_t>(part.count) * sizeof(T));
  return load_all(padded, Real{});
}

inline void store(float* to, F32 x, Full) { __builtin_memcpy(to, &x, sizeof x); }
inline void store(double* to, F64 x, Full) { __builtin_memcpy(to, &x, sizeof x); }
template <class T>
inline void store(T* to, F32 x, Full) {
  const U16 raw = narrow(x, T{});
  __builtin_memcpy(to, &raw, sizeof raw);
}
// By way of fp32, as torch rounds.
template <class T>
inline void store(T* to, F64 x, Full) {
  const F32OfF64 rounded = __builtin_convertvector(x, F32OfF64);
  float wide[kWidth] = {};
  T padded[kWidth];
  __builtin_memcpy(wide, &rounded, sizeof rounded);
  store(padded, read<F32>(wide), Full{});
  __builtin_memcpy(to, padded, kWidth / 2 * sizeof(T));
}
template <class T, class V>
inline void store(T* to, V x, Part part) {
  T padded[kWidth];
  store(padded, x, Full{});
  __builtin_memcpy(to, padded, static_cast<std::size_t>(part.count) * sizeof(T));
}

// Whether streaming stores may write here.
inline bool can_stream(const void* to) {
  return reinterpret_cast<std::uintptr_t>(to) % sizeof(U16) == 0;
}

// The same as a store, past the caches where T is a 16-bit type: the line that it overwrites is not
// read first. For memory that is not read soon; `finish_streams` comes before another thread may
// read it.
template <class T, class V, class Lanes>
inline void stream(T* to, V x, Lanes lanes) {
  store(to, x, lanes);
}
inline void stream_raw(void* to, U16 raw) {
#if defined(__AVX512F__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bits_as<__m256i>(raw));
#elif defined(__AVX2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), bits_as<__m128i>(raw));
#else
  __builtin_memcpy(to, &raw, sizeof raw);
#endif
}
inline void stream(Half* to, F32 x, Full) { stream_raw(to, narrow(x, Half{})); }
inline void stream(BFloat* to, F32 x, Full) { stream_raw(to, narrow(x, BFloat{})); }
inline void finish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// What is read again once x was stored as a T.
inline F32 stored_as(F32 x, float) { return x; }
inline F64 stored_as(F64 x, double) { return x; }
inline F32 stored_as(F32 x, Half) { return widen(narrow(x, Half{}), Half{}); }
inline F32 stored_as(F32 x, BFloat) { return bits_as<F32>(round_bits(x, BFloat{}) & 0xffff0000u); }

// GCC drops calls of functions that do nothing but __builtin_prefetch.
inline void prefetch_line(const char* line) {
#if defined(__SSE2__)
  asm volatile("prefetcht1 %0" : : "m"(*line));
#else
  __builtin_prefetch(line, 0, 2);
#endif
}

constexpr std::int64_t kAhead = 1024;  // bytes

// Brings the line that a loop needs sixteen lines later into the second cache. The hardware does
// that by itself, but it begins anew at every page; what goes into the first cache at once takes
// the few places there that loads wait in. Past an array's end this is harmless.
template <class T>
inline void prefetch(const T* from) {
  prefetch_line(reinterpret_cast<const char*>(from) + kAhead);
}

// Calls body(i, Full) for each whole vector and body(i, Part) for the rest.
template <class Real, class Body>
inline void for_each_vector(std::int64_t count, Body&& body) {
  constexpr std::int64_t kStep = Lanes<Real>::count;
  std::int64_t i = 0;
  for (; i + kStep <= count; i += kStep) body(i, Full{});
  if (i < count) body(i, Part{count - i});
}

// The same; before each whole vector it calls here(i), for the last `tail` elements next().
template <class Real, class Here, class Next, class Body>
inline void for_each_vector(std::int64_t count, std::int64_t tail, Here&& here, Next&& next,
                            Body&& body) {
  constexpr std::int64_t kStep = Lanes<Real>::count;
  std::int64_t i = 0;
  for (; i + kStep <= count - tail; i += kStep) {
    here(i);
    body(i, Full{});
  }
  for (; i + kStep <= count; i += kStep) {
    next();
    body(i, Full{});
  }
  if (i < count) body(i, Part{count - i});
}

}  // namespace
}  // namespace hookrun::cpu::HOOKRUN_ISA
