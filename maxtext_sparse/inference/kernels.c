// Sparse matrix times one to eight vectors on a CPU, for text generation with pruned weights.
//
// Reading the weights is what one token costs, so the format keeps them packed in memory and in the inner loop:
//
//   bitmask   one bit a weight (bit j of byte i of a row is column 8 i + j) and the non-zero values in row-major order.
//             The loop expands 8 to 64 columns at a time in registers and multiplies them with the vectors.
//   csr       the column of each value as 16 bits, for matrices with few weights left.
//   dense     all values, for matrices that were hardly pruned.
//
// Values are fp32, bf16, or int8 with one scale a row. With int8 the vectors are rounded to 16 bits, all sums are exact
// integers, and so every instruction set and any number of threads gives the same bits.
//
// How to read this file: the types; the preparation of the vectors; the loops over one row for each instruction set
// (portable, AVX2, AVX-512, NEON); the threads; the functions that Python calls, which have the prefix `mxs_`.
//
// The caller has checked the matrix: offsets ascend, masks and offsets agree, bits past the last column are zero.

#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define MAX_TOKENS 8
#define MAX_THREADS 256
// A vector load at the end of a row may read up to this many elements past it.
#define OVERREAD 64

// ---------------------------------------------------------------------------------------------------------------------
// Types

enum layout { BITMASK = 0, CSR = 1, DENSE = 2 };
enum dtype { FP32 = 0, BF16 = 1, INT8 = 2 };
enum isa { PORTABLE = 0, AVX2 = 1, AVX512 = 2, NEON = 3 };

// A matrix [rows, cols]; rows are output features. Pointers that a layout does not use are NULL.
typedef struct {
  int32_t layout, dtype;
  int64_t rows, cols;
  const void *values;          // [row_offsets[rows]], dense: [rows * cols]
  const uint8_t *bitmask;      // [rows, ceil(cols / 8)]
  const uint16_t *columns;     // csr: [row_offsets[rows]]
  const int64_t *row_offsets;  // [rows + 1], not for dense
  const float *scales;         // int8: [rows]
} mxs_matrix;

// The vectors in the order in which a loop reads them: of each block of 64 columns first the block of token 0, then
// that of token 1, and so on. (One token after another would put a column of all tokens into the same set of the cache.)
// The last block is filled up with zeros.
enum form {
  NATURAL,    // float [blocks][tokens][64]
  SPLIT,      // float [blocks][tokens][64]: of each 32 columns first the even ones, then the odd ones
  WHOLE,      // int16 [blocks][tokens][64]
  PLANES,     // int8 [blocks][tokens][2][64]: WHOLE as 256 * first + second
  BY_COLUMN,  // float [cols][MAX_TOKENS], zero for tokens that are not there
};

typedef struct {
  const void *data;
  float scales[MAX_TOKENS];   // WHOLE and PLANES: the vector is its scale times the integers
  int64_t totals[MAX_TOKENS]; // and the sum of its integers
} input;

INLINE int64_t size_of(int dtype) { return dtype == FP32 ? 4 : dtype == BF16 ? 2 : 1; }

INLINE float from_bf16(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

INLINE float value_at(const void *values, int dtype, int64_t i) {
  if (dtype == FP32) return ((const float *)values)[i];
  if (dtype == BF16) return from_bf16(((const uint16_t *)values)[i]);
  return ((const int8_t *)values)[i];
}

// The mask of the last columns of a row, `left` < 64 of them.
static __attribute__((noinline)) uint64_t last_mask_word(const uint8_t *mask, int64_t left) {
  uint64_t word = 0;
  memcpy(&word, mask, (size_t)(left + 7) / 8);
  return word;
}

// The mask of columns c to c + 63 of a row. `mask` is NULL for a dense row.
INLINE uint64_t mask_word(const uint8_t *mask, int64_t c, int64_t cols) {
  int64_t left = cols - c;
  if (!mask) return left >= 64 ? ~0ULL : (1ULL << left) - 1;
  if (left < 64) return last_mask_word(mask + c / 8, left);
  uint64_t word;
  memcpy(&word, mask + c / 8, sizeof word);
  return word;
}

// ---------------------------------------------------------------------------------------------------------------------
// Preparation of the vectors

// Largest integer of WHOLE. AVX2 sums cols / 8 products with weights of up to 128 in each of its eight 32-bit lanes,
// which must not overflow; 127 * 256 + 127 is what two planes can hold. 4,096 columns: 32,639; 16,384: 8,191.
static int64_t integer_limit(int64_t cols) {
  int64_t fits = INT32_MAX / (128 * ((cols + 7) / 8));
  return fits < 32639 ? fits : 32639;
}

// Rounds a vector to integers. Returns its scale; the scale is NaN if an element is not finite.
static float to_integers(const float *x, int64_t cols, int64_t padded, int16_t *out, int64_t *total) {
  float largest = 0;
  for (int64_t c = 0; c < cols; c++) {
    float size = fabsf(x[c]);
    largest = size > largest || size != size ? size : largest;
  }
  *total = 0;
  float limit = (float)integer_limit(cols), factor = limit / largest;
  int is_usable = largest > 0 && isfinite(largest) && isfinite(factor);
  for (int64_t c = 0; c < cols; c++) {
    out[c] = is_usable ? (int16_t)lrintf(x[c] * factor) : 0;
    *total += out[c];
  }
  memset(out + cols, 0, (size_t)(padded - cols) * sizeof *out);
  if (!isfinite(largest)) return NAN;
  return is_usable ? largest / limit : 0;
}

// Bytes of the largest form, and of a vector of integers aside.
static size_t prepared_bytes(int64_t cols) { return (size_t)(cols + 63) / 64 * 64 * (MAX_TOKENS * 4 + 2); }

// One block of 64 columns of one token. `left` columns are there, the others become zero.
static void fill_floats(float *out, const float *x, int64_t left, int is_split) {
  float block[64] = {0};
  memcpy(block, x, (size_t)(left < 64 ? left : 64) * 4);
  if (!is_split) memcpy(out, block, sizeof block);
  if (is_split)
    for (int half = 0; half < 64; half += 32)
      for (int i = 0; i < 16; i++) {
        out[half + i] = block[half + 2 * i];
        out[half + 16 + i] = block[half + 2 * i + 1];
      }
}

static void fill_planes(int8_t *out, const int16_t *whole) {
  for (int c = 0; c < 64; c++) {
    int8_t low = (int8_t)whole[c];
    out[c] = (int8_t)((whole[c] - low) / 256);
    out[64 + c] = low;
  }
}

// Writes the vectors x [tokens][cols] into `room` in the given form.
static void prepare(input *in, enum form form, const float *x, int64_t tokens, int64_t cols, void *room) {
  int64_t padded = (cols + 63) / 64 * 64;
  int16_t *whole = (int16_t *)((char *)room + (size_t)padded * MAX_TOKENS * 4);
  int is_integer = form == WHOLE || form == PLANES;
  in->data = room;
  if (form == BY_COLUMN) memset(room, 0, (size_t)cols * MAX_TOKENS * 4);
  for (int64_t t = 0; t < tokens; t++) {
    const float *row = x + t * cols;
    if (form == BY_COLUMN)
      for (int64_t c = 0; c < cols; c++) ((float *)room)[c * MAX_TOKENS + t] = row[c];
    if (is_integer) in->scales[t] = to_integers(row, cols, padded, whole, &in->totals[t]);
    for (int64_t c = 0; c < cols && form != BY_COLUMN; c += 64) {
      int64_t block = c * tokens + t * 64;
      if (form == WHOLE) memcpy((int16_t *)room + block, whole + c, 64 * sizeof *whole);
      if (form == PLANES) fill_planes((int8_t *)room + 2 * block, whole + c);
      if (!is_integer) fill_floats((float *)room + block, row + c, cols - c, form == SPLIT);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Loops over one row. Each writes `tokens` sums: of value * x for floats, of value * integer for int8.
// `mask` is NULL for a dense row. At least OVERREAD elements can be read past the row's last value.

typedef void row_loop(const uint8_t *mask, const void *values, int64_t cols, const input *in, int tokens, double *sums);

// Calls an inlined loop with the number of tokens as a constant, so that the compiler keeps the sums in registers.
#define WITH_CONSTANT_TOKENS(loop)                            \
  switch (tokens) {                                           \
    case 1: loop(mask, values, cols, in, 1, sums); break;     \
    case 2: loop(mask, values, cols, in, 2, sums); break;     \
    case 3: loop(mask, values, cols, in, 3, sums); break;     \
    case 4: loop(mask, values, cols, in, 4, sums); break;     \
    case 5: loop(mask, values, cols, in, 5, sums); break;     \
    case 6: loop(mask, values, cols, in, 6, sums); break;     \
    case 7: loop(mask, values, cols, in, 7, sums); break;     \
    default: loop(mask, values, cols, in, MAX_TOKENS, sums);  \
  }

// A loop over T tokens, unrolled in every case: sums that the compiler keeps in memory cost twice the time.
#define EACH_TOKEN(t) _Pragma("GCC unroll 8") for (int t = 0; t < T; t++)

// Portable: goes from set bit to set bit.

INLINE void portable_floats(const uint8_t *mask, const void *values, int dtype, int64_t cols, const input *in,
                            int tokens, double *sums) {
  const float *x = in->data;
  float totals[MAX_TOKENS] = {0};
  int64_t k = 0;
  for (int64_t c = 0; c < cols; c += 64)
    for (uint64_t word = mask_word(mask, c, cols); word; word &= word - 1) {
      float value = value_at(values, dtype, k++);
      int64_t column = __builtin_ctzll(word);
      for (int t = 0; t < tokens; t++) totals[t] += value * x[c * tokens + t * 64 + column];
    }
  for (int t = 0; t < tokens; t++) sums[t] = totals[t];
}

static void fp32_portable(const uint8_t *mask, const void *values, int64_t cols, const input *in, int tokens,
                          double *sums) {
  portable_floats(mask, values, FP32, cols, in, tokens, sums);
}

static void bf16_portable(const uint8_t *mask, const void *values, int64_t cols, const input *in, int tokens,
                          double *sums) {
  portable_floats(mask, values, BF16, cols, in, tokens, sums);
}

static void int8_portable(const uint8_t *mask, const void *values, int64_t cols, const input *in, int tokens,
                          double *sums) {
  const int16_t *x = in->data;
  const int8_t *next = values;
  int64_t totals[MAX_TOKENS] = {0};
  for (int64_t c = 0; c < cols; c += 64)
    for (uint64_t word = mask_word(mask, c, cols); word; word &= word - 1) {
      int64_t column = __builtin_ctzll(word), value = *next++;
      for (int t = 0; t < tokens; t++) totals[t] += value * x[c * tokens + t * 64 + column];
    }
  for (int t = 0; t < tokens; t++) sums[t] = (double)totals[t];
}

// For each byte of mask, the place of each column's value among the values that follow; 0x80 where the weight is zero,
// which byte shuffles turn into a zero. Mask 0b00000101: places 0, 80, 1, 80, 80, 80, 80, 80.
static uint8_t places[256][8];
// The same for values of two bytes: byte 2 j of a column is 2 * place, byte 2 j + 1 is 2 * place + 1.
static uint8_t byte_pairs[256][16];

static void fill_tables(void) {
  for (int mask = 0; mask < 256; mask++)
    for (int bit = 0, place = 0; bit < 8; bit++) {
      int is_set = mask >> bit & 1;
      places[mask][bit] = is_set ? (uint8_t)place : 0x80;
      byte_pairs[mask][2 * bit] = is_set ? (uint8_t)(2 * place) : 0x80;
      byte_pairs[mask][2 * bit + 1] = is_set ? (uint8_t)(2 * place + 1) : 0x80;
      place += is_set;
    }
}

#if defined(__x86_64__)
// AVX2: a byte of mask selects a row of the table above, which shuffles the next values to their columns.

#define TARGET_AVX2 __attribute__((target("avx2,fma,bmi,bmi2,popcnt")))

TARGET_AVX2 INLINE double sum_avx2(__m256 v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

TARGET_AVX2 INLINE void fp32_loop_avx2(const uint8_t *mask, const void *values, int64_t cols, const input *in,
                                       const int T, double *sums) {
  const float *next = values, *x = in->data;
  __m256 totals[MAX_TOKENS];
  EACH_TOKEN(t) totals[t] = _mm256_setzero_ps();
  for (int64_t c = 0; c < cols; c += 64) {
    uint64_t word = mask_word(mask, c, cols);
    for (int i = 0; word; i += 8, word >>= 8) {
      uint8_t byte = (uint8_t)word;
      __m256i place = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)places[byte]));
      __m256 moved = _mm256_permutevar8x32_ps(_mm256_loadu_ps(next), place);
      // 0x80 shifted by 24 is the sign bit, which selects the zero.
      __m256 is_zero = _mm256_castsi256_ps(_mm256_slli_epi32(place, 24));
      __m256 weights = _mm256_blendv_ps(moved, _mm256_setzero_ps(), is_zero);
      next += __builtin_popcount(byte);
      EACH_TOKEN(t)
        totals[t] = _mm256_fmadd_ps(weights, _mm256_loadu_ps(x + c * T + t * 64 + i), totals[t]);
    }
  }
  EACH_TOKEN(t) sums[t] = sum_avx2(totals[t]);
}

// 16 columns at a time; a 32-bit lane holds an even column in its low half and the odd one after it in its high half.
TARGET_AVX2 INLINE void bf16_loop_avx2(const uint8_t *mask, const void *values, int64_t cols, const input *in,
                                       const int T, double *sums) {
  const uint16_t *next = values;
  const float *x = in->data;
  const __m256i high_half = _mm256_set1_epi32((int)0xFFFF0000);
  // Even and odd columns have sums of their own while there are registers for them.
  const int odd_sum = T <= 4;
  __m256 totals[MAX_TOKENS][2];
  EACH_TOKEN(t) totals[t][0] = totals[t][1] = _mm256_setzero_ps();
  for (int64_t c = 0; c < cols; c += 64) {
    uint64_t word = mask_word(mask, c, cols);
    for (int i = 0; word; i += 16, word >>= 16) {
      uint8_t first = (uint8_t)word, second = (uint8_t)(word >> 8);
      const uint16_t *after = next + __builtin_popcount(first);
      __m256i packed = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)next)),
                                               _mm_loadu_si128((const __m128i *)after), 1);
      __m256i places16 = _mm256_inserti128_si256(
          _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)byte_pairs[first])),
          _mm_loadu_si128((const __m128i *)byte_pairs[second]), 1);
      __m256i weights = _mm256_shuffle_epi8(packed, places16);
      __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(weights, 16));
      __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(weights, high_half));
      next = after + __builtin_popcount(second);
      // In SPLIT, columns i to i + 15 are eight even ones and, 16 further on, eight odd ones.
      const float *at = x + c * T + i - i % 32 + i % 32 / 2;
      EACH_TOKEN(t) {
        totals[t][0] = _mm256_fmadd_ps(even, _mm256_loadu_ps(at + t * 64), totals[t][0]);
        totals[t][odd_sum] = _mm256_fmadd_ps(odd, _mm256_loadu_ps(at + t * 64 + 16), totals[t][odd_sum]);
      }
    }
  }
  EACH_TOKEN(t) sums[t] = sum_avx2(_mm256_add_ps(totals[t][0], totals[t][1]));
}

TARGET_AVX2 INLINE void int8_loop_avx2(const uint8_t *mask, const void *values, int64_t cols, const input *in,
                                       const int T, double *sums) {
  const int8_t *next = values;
  const int16_t *x = in->data;
  __m256i totals[MAX_TOKENS];
  EACH_TOKEN(t) totals[t] = _mm256_setzero_si256();
  for (int64_t c = 0; c < cols; c += 64) {
    uint64_t word = mask_word(mask, c, cols);
    for (int i = 0; word; i += 16, word >>= 16) {
      uint8_t first = (uint8_t)word, second = (uint8_t)(word >> 8);
      const int8_t *after = next + __builtin_popcount(first);
      __m128i packed = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)next),
                                          _mm_loadl_epi64((const __m128i *)after));
      // Places of the second byte count from 8; 0x80 + 8 still gives zero.
      __m128i place = _mm_unpacklo_epi64(
          _mm_loadl_epi64((const __m128i *)places[first]),
          _mm_add_epi8(_mm_loadl_epi64((const __m128i *)places[second]), _mm_set1_epi8(8)));
      __m256i weights = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(packed, place));
      next = after + __builtin_popcount(second);
      EACH_TOKEN(t) {
        __m256i at = _mm256_loadu_si256((const __m256i *)(x + c * T + t * 64 + i));
        totals[t] = _mm256_add_epi32(totals[t], _mm256_madd_epi16(weights, at));
      }
    }
  }
  EACH_TOKEN(t) {
    int32_t lanes[8];
    _mm256_storeu_si256((__m256i *)lanes, totals[t]);
    int64_t total = 0;
    for (int lane = 0; lane < 8; lane++) total += lanes[lane];
    sums[t] = (double)total;
  }
}

TARGET_AVX2 static void fp32_avx2(const uint8_t *mask, const void *values, int64_t cols, const input *in, int tokens,
                                  double *sums) {
  WITH_CONSTANT_TOKENS(fp32_loop_avx2)
}

TARGET_AVX2 static void bf16_avx2(const uint8_t *mask, const void *values, int64_t cols, const input *in, int tokens,
                                  double *sums) {
  WITH_CONSTANT_TOKENS(bf16_loop_avx2)
}

TARGET_AVX2 static void int8_avx2(const uint8_t *mask, const void *values, int64_t cols, const input *in, int tokens,
                                  double *sums) {
  WITH_CONSTANT_TOKENS(int8_loop_avx2)
}

// AVX-512 of Ice Lake, Zen 4 and later: one instruction expands 16, 32 or 64 values to their columns.

#define TARGET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2,avx512vnni,avx2,fma,bmi,bmi2,popcnt")))

// Independent sums a token. A sum waits 4 cycles for the one before it; 16 registers of sums leave 16 for the rest.
#define CHAINS(T) ((T) <= 4 ? 4 : 2)

#define CLEAR_CHAINS            \
  __m512 totals[MAX_TOKENS][4]; \
  EACH_TOKEN(t) totals[t][0] = totals[t][1] = totals[t][2] = totals[t][3] = _mm512_setzero_ps();

#define SUM_CHAINS                                                                               \
  EACH_TOKEN(t) {                                                                                \
    __m512 total = _mm512_add_ps(totals[t][0], totals[t][1]);                                    \
    if (CHAINS(T) == 4) total = _mm512_add_ps(total, _mm512_add_ps(totals[t][2], totals[t][3])); \
    sums[t] = _mm512_reduce_add_ps(total);                                                       \
  }

// A zero that an expansion writes over. On Zen 4 an expansion waits for the last writer of its destination, also in the
// form that sets the rest to zero: 5 cycles each instead of 1.4. A register that was just cleared has no last writer.
// The operand keeps the compiler from moving the instruction out of the loop.
TARGET_AVX512 INLINE __m512i fresh_zero(uint64_t word) {
  __m512i zero;
  __asm__("vpxor %x0, %x0, %x0" : "=x"(zero) : "r"(word));
  return zero;
}

TARGET_AVX512 INLINE void fp32_loop_avx512(const uint8_t *mask, const void *values, int64_t cols, const input *in,
                                           const int T, double *sums) {
  const float *next = values, *x = in->data;
  CLEAR_CHAINS
  for (int64_t c = 0; c < cols; c += 64) {
    uint64_t word = mask_word(mask, c, cols);
    if (!word) continue;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      __mmask16 part = (__mmask16)(word >> 16 * i);
      __m512 zero = _mm512_castsi512_ps(fresh_zero(word));
      __m512 weights = _mm512_mask_expand_ps(zero, part, _mm512_loadu_ps(next));
      next += __builtin_popcount(part);
      EACH_TOKEN(t) {
        __m512 at = _mm512_loadu_ps(x + c * T + t * 64 + 16 * i);
        totals[t][i % CHAINS(T)] = _mm512_fmadd_ps(weights, at, totals[t][i % CHAINS(T)]);
      }
    }
  }
  SUM_CHAINS
}

// 32 columns at a time; a 32-bit lane holds an even column in its low half and the odd one after it in its high half.
TARGET_AVX512 INLINE void bf16_loop_avx512(const uint8_t *mask, const void *values, int64_t cols, const input *in,
                                           const int T, double *sums) {
  const uint16_t *next = values;
  const float *x = in->data;
  const __m512i high_half = _mm512_set1_epi32((int)0xFFFF0000);
  CLEAR_CHAINS
  for (int64_t c = 0; c < cols; c += 64) {
    uint64_t word = mask_word(mask, c, cols);
    if (!word) continue;
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      __mmask32 part = (__mmask32)(word >> 32 * i);
      __m512i weights = _mm512_mask_expand_epi16(fresh_zero(word), part, _mm512_loadu_si512(next));
      __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(weights, 16));
      __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(weights, high_half));
      next += __builtin_popcount(part);
      EACH_TOKEN(t) {
        const float *at = x + c * T + t * 64 + 32 * i;
        int chain = 2 * i % CHAINS(T);
        totals[t][chain] = _mm512_fmadd_ps(even, _mm512_loadu_ps(at), totals[t][chain]);
        totals[t][chain + 1] = _mm512_fmadd_ps(odd, _mm512_loadu_ps(at + 16), totals[t][chain + 1]);
      }
    }
  }
  SUM_CHAINS
}

// 256 times the sum of the lanes of `high` plus the sum of those of `low`; both are added up in one register.
TARGET_AVX512 INLINE int64_t sum_planes(__m512i high, __m512i low) {
  __m512i pairs = _mm512_add_epi32(_mm512_unpacklo_epi32(high, low), _mm512_unpackhi_epi32(high, low));
  __m256i four = _mm256_add_epi32(_mm512_castsi512_si256(pairs), _mm512_extracti64x4_epi64(pairs, 1));
  __m128i two = _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  int64_t pair = _mm_cvtsi128_si64(_mm_add_epi32(two, _mm_unpackhi_epi64(two, two)));
  return 256 * (int64_t)(int32_t)pair + (pair >> 32);
}

// The instruction multiplies unsigned with signed bytes: each weight w is taken as w + 128, a zero weight as 128, and
// 128 times the sum of x is taken off again. A plane's sum fits 32 bits up to 65,536 columns.
TARGET_AVX512 INLINE void int8_loop_avx512(const uint8_t *mask, const void *values, int64_t cols, const input *in,
                                           const int T, double *sums) {
  const int8_t *next = values, *x = in->data;
  const __m512i offset = _mm512_set1_epi8((char)0x80);
  __m512i high[MAX_TOKENS], low[MAX_TOKENS];
  EACH_TOKEN(t) high[t] = low[t] = _mm512_setzero_si512();
  for (int64_t c = 0; c < cols; c += 64) {
    uint64_t word = mask_word(mask, c, cols);
    __m512i packed = _mm512_xor_si512(_mm512_loadu_si512(next), offset);
    __m512i weights = _mm512_mask_expand_epi8(offset, (__mmask64)word, packed);
    next += __builtin_popcountll(word);
    EACH_TOKEN(t) {
      const int8_t *at = x + 2 * (c * T + t * 64);
      high[t] = _mm512_dpbusd_epi32(high[t], weights, _mm512_loadu_si512(at));
      low[t] = _mm512_dpbusd_epi32(low[t], weights, _mm512_loadu_si512(at + 64));
    }
  }
  EACH_TOKEN(t) sums[t] = (double)(sum_planes(high[t], low[t]) - 128 * in->totals[t]);
}

TARGET_AVX512 static void fp32_avx512(const uint8_t *mask, const void *values, int64_t cols, const input *in,
                                      int tokens, double *sums) {
  WITH_CONSTANT_TOKENS(fp32_loop_avx512)
}

TARGET_AVX512 static void bf16_avx512(const uint8_t *mask, const void *values, int64_t cols, const input *in,
                                      int tokens, double *sums) {
  WITH_CONSTANT_TOKENS(bf16_loop_avx512)
}

TARGET_AVX512 static void int8_avx512(const uint8_t *mask, const void *values, int64_t cols, const input *in,
                                      int tokens, double *sums) {
  WITH_CONSTANT_TOKENS(int8_loop_avx512)
}
#endif  // __x86_64__

#if defined(__aarch64__)
// NEON: the same tables as AVX2, eight columns at a time. An index of 0x80 is out of range, which gives zero.

INLINE void bf16_loop_neon(const uint8_t *mask, const void *values, int64_t cols, const input *in, const int T,
                           double *sums) {
  const uint16_t *next = values;
  const float *x = in->data;
  float32x4_t low_totals[MAX_TOKENS], high_totals[MAX_TOKENS];
  EACH_TOKEN(t) low_totals[t] = high_totals[t] = vdupq_n_f32(0);
  for (int64_t c = 0; c < cols; c += 64) {
    uint64_t word = mask_word(mask, c, cols);
    for (int i = 0; word; i += 8, word >>= 8) {
      uint8_t byte = (uint8_t)word;
      uint8x16_t packed = vreinterpretq_u8_u16(vld1q_u16(next));
      uint16x8_t weights = vreinterpretq_u16_u8(vqtbl1q_u8(packed, vld1q_u8(byte_pairs[byte])));
      float32x4_t low = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(weights), 16));
      float32x4_t high = vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(weights), 16));
      next += __builtin_popcount(byte);
      EACH_TOKEN(t) {
        const float *at = x + c * T + t * 64 + i;
        low_totals[t] = vfmaq_f32(low_totals[t], low, vld1q_f32(at));
        high_totals[t] = vfmaq_f32(high_totals[t], high, vld1q_f32(at + 4));
      }
    }
  }
  EACH_TOKEN(t) sums[t] = vaddvq_f32(vaddq_f32(low_totals[t], high_totals[t]));
}

INLINE void int8_loop_neon(const uint8_t *mask, const void *values, int64_t cols, const input *in, const int T,
                           double *sums) {
  const int8_t *next = values;
  const int16_t *x = in->data;
  int32x4_t low_totals[MAX_TOKENS], high_totals[MAX_TOKENS];
  EACH_TOKEN(t) low_totals[t] = high_totals[t] = vdupq_n_s32(0);
  for (int64_t c = 0; c < cols; c += 64) {
    uint64_t word = mask_word(mask, c, cols);
    for (int i = 0; word; i += 8, word >>= 8) {
      uint8_t byte = (uint8_t)word;
      int16x8_t weights = vmovl_s8(vtbl1_s8(vld1_s8(next), vreinterpret_s8_u8(vld1_u8(places[byte]))));
      next += __builtin_popcount(byte);
      EACH_TOKEN(t) {
        int16x8_t at = vld1q_s16(x + c * T + t * 64 + i);
        low_totals[t] = vmlal_s16(low_totals[t], vget_low_s16(weights), vget_low_s16(at));
        high_totals[t] = vmlal_s16(high_totals[t], vget_high_s16(weights), vget_high_s16(at));
      }
    }
  }
  EACH_TOKEN(t) sums[t] = (double)(vaddlvq_s32(low_totals[t]) + vaddlvq_s32(high_totals[t]));
}

static void bf16_neon(const uint8_t *mask, const void *values, int64_t cols, const input *in, int tokens,
                      double *sums) {
  WITH_CONSTANT_TOKENS(bf16_loop_neon)
}

static void int8_neon(const uint8_t *mask, const void *values, int64_t cols, const input *in, int tokens,
                      double *sums) {
  WITH_CONSTANT_TOKENS(int8_loop_neon)
}
#endif  // __aarch64__

// Compressed rows: one loop for all instruction sets, since each value fetches its own x. Four independent sums.
INLINE void csr_loop(const uint16_t *columns, const void *values, int dtype, int64_t begin, int64_t end,
                     const input *in, int tokens, double *sums) {
  const float *x = in->data;
  int64_t k = begin;
  if (tokens == 1) {
    float totals[4] = {0};
    for (; k + 4 <= end; k += 4)
      for (int i = 0; i < 4; i++) totals[i] += value_at(values, dtype, k + i) * x[columns[k + i]];
    for (; k < end; k++) totals[0] += value_at(values, dtype, k) * x[columns[k]];
    sums[0] = (totals[0] + totals[1]) + (totals[2] + totals[3]);
    return;
  }
  // BY_COLUMN: one value multiplies the eight tokens' elements at once.
  float totals[MAX_TOKENS] = {0};
  for (; k < end; k++) {
    float value = value_at(values, dtype, k);
    const float *at = x + (int64_t)columns[k] * MAX_TOKENS;
    for (int t = 0; t < MAX_TOKENS; t++) totals[t] += value * at[t];
  }
  for (int t = 0; t < tokens; t++) sums[t] = totals[t];
}

INLINE void csr_any(const mxs_matrix *m, int64_t row, const input *in, int tokens, double *sums) {
  int64_t begin = m->row_offsets[row], end = m->row_offsets[row + 1];
  switch (m->dtype) {
    case FP32: csr_loop(m->columns, m->values, FP32, begin, end, in, tokens, sums); break;
    case BF16: csr_loop(m->columns, m->values, BF16, begin, end, in, tokens, sums); break;
    default: csr_loop(m->columns, m->values, INT8, begin, end, in, tokens, sums);
  }
}

static void csr_portable(const mxs_matrix *m, int64_t row, const input *in, int tokens, double *sums) {
  csr_any(m, row, in, tokens, sums);
}

#if defined(__x86_64__)
TARGET_AVX2 static void csr_avx2(const mxs_matrix *m, int64_t row, const input *in, int tokens, double *sums) {
  csr_any(m, row, in, tokens, sums);
}
#endif

// ---------------------------------------------------------------------------------------------------------------------
// Which loop runs here

typedef struct {
  row_loop *loops[3];   // by dtype
  enum form forms[3];   // what each loop reads
  void (*csr)(const mxs_matrix *, int64_t, const input *, int, double *);
} loop_set;

static const loop_set loop_sets[] = {
  [PORTABLE] = {{fp32_portable, bf16_portable, int8_portable}, {NATURAL, NATURAL, WHOLE}, csr_portable},
#if defined(__x86_64__)
  [AVX2] = {{fp32_avx2, bf16_avx2, int8_avx2}, {NATURAL, SPLIT, WHOLE}, csr_avx2},
  [AVX512] = {{fp32_avx512, bf16_avx512, int8_avx512}, {NATURAL, SPLIT, PLANES}, csr_avx2},
#elif defined(__aarch64__)
  [NEON] = {{fp32_portable, bf16_neon, int8_neon}, {NATURAL, NATURAL, WHOLE}, csr_portable},
#endif
};

static int is_supported(int isa) {
  if (isa == PORTABLE) return 1;
#if defined(__x86_64__)
  int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (isa == AVX2) return has_avx2;
  if (isa == AVX512)
    return has_avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi2") &&
           __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__)
  if (isa == NEON) return 1;
#endif
  return 0;
}

static int current_isa = PORTABLE;

__attribute__((constructor)) static void start(void) {
  fill_tables();
  const int by_speed[] = {AVX512, AVX2, NEON, PORTABLE};
  for (int i = 0; i < 4; i++)
    if (is_supported(by_speed[i])) {
      current_isa = by_speed[i];
      return;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Threads. The caller's thread works too; workers wait for the next job awake for a moment, then asleep.

#define ROUNDS_AWAKE 20000  // about 50 microseconds, a little more than Python needs between two layers

typedef struct {
  const mxs_matrix *matrix;
  const input *in;
  int tokens;
  float *y;             // product: [tokens][rows]
  void *expanded;       // expansion instead of a product: [rows of the job][cols] of out_dtype
  int out_dtype;
  int64_t begin, end;   // rows
  int64_t rows_a_piece; // threads take pieces of this many rows until none is left
} job;

static struct {
  pthread_mutex_t caller;  // one job at a time
  pthread_mutex_t lock;
  pthread_cond_t is_new;
  pthread_t workers[MAX_THREADS];
  int num_threads;         // the caller's included
  pid_t owner;             // a forked child has no workers
  job job;
  atomic_uint job_number;
  atomic_int num_busy;
  atomic_int is_stopping;
  atomic_llong next_row;
  int cpus[MAX_THREADS];          // wanted, -1 for any
  atomic_int ran_on[MAX_THREADS]; // seen in the last job, -1 for none
  void *scratch[MAX_THREADS];     // a row's values with room for reading past them
  size_t scratch_bytes[MAX_THREADS];
  void *room;                     // the prepared vectors
  size_t room_bytes;
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER,
          .is_new = PTHREAD_COND_INITIALIZER, .num_threads = 1, .cpus = {-1}};

INLINE void pause_cpu(void) {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int pin(int cpu) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof set, &set);
#else
  (void)cpu;
  return -1;
#endif
}

static void multiply_row(const job *j, int64_t row, void *scratch) {
  const mxs_matrix *m = j->matrix;
  const loop_set *set = &loop_sets[current_isa];
  double sums[MAX_TOKENS];
  if (m->layout == CSR) {
    set->csr(m, row, j->in, j->tokens, sums);
  } else {
    int is_dense = m->layout == DENSE;
    int64_t begin = is_dense ? row * m->cols : m->row_offsets[row];
    int64_t end = is_dense ? begin + m->cols : m->row_offsets[row + 1];
    int64_t total = is_dense ? m->rows * m->cols : m->row_offsets[m->rows];
    const char *values = (const char *)m->values + begin * size_of(m->dtype);
    if (end + OVERREAD > total) {
      memcpy(scratch, values, (size_t)((end - begin) * size_of(m->dtype)));
      values = scratch;
    }
    const uint8_t *mask = is_dense ? NULL : m->bitmask + row * ((m->cols + 7) / 8);
    set->loops[m->dtype](mask, values, m->cols, j->in, j->tokens, sums);
  }
  for (int t = 0; t < j->tokens; t++) {
    // The vectors of compressed rows are floats, also for int8.
    double x_scale = m->dtype == INT8 && m->layout != CSR ? j->in->scales[t] : 1;
    double row_scale = m->dtype == INT8 ? m->scales[row] : 1;
    j->y[t * m->rows + row] = (float)(sums[t] * x_scale * row_scale);
  }
}

INLINE uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (value != value) return 0x7FC0;
  return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

INLINE void put(void *out, int out_dtype, int64_t column, float value) {
  if (out_dtype == BF16)
    ((uint16_t *)out)[column] = to_bf16(value);
  else
    ((float *)out)[column] = value;
}

INLINE void expand_values(const mxs_matrix *m, int dtype, int out_dtype, int64_t row, void *out) {
  float scale = dtype == INT8 ? m->scales[row] : 1;
  if (m->layout == DENSE) {
    for (int64_t c = 0; c < m->cols; c++) put(out, out_dtype, c, value_at(m->values, dtype, row * m->cols + c) * scale);
    return;
  }
  memset(out, 0, (size_t)(m->cols * size_of(out_dtype)));
  int64_t k = m->row_offsets[row], end = m->row_offsets[row + 1];
  if (m->layout == CSR) {
    for (; k < end; k++) put(out, out_dtype, m->columns[k], value_at(m->values, dtype, k) * scale);
    return;
  }
  const uint8_t *mask = m->bitmask + row * ((m->cols + 7) / 8);
  for (int64_t c = 0; c < m->cols; c += 64)
    for (uint64_t word = mask_word(mask, c, m->cols); word; word &= word - 1)
      put(out, out_dtype, c + __builtin_ctzll(word), value_at(m->values, dtype, k++) * scale);
}

static void expand_row(const job *j, int64_t row) {
  const mxs_matrix *m = j->matrix;
  void *out = (char *)j->expanded + (row - j->begin) * m->cols * size_of(j->out_dtype);
  switch (m->dtype * 2 + (j->out_dtype == BF16)) {
    case 2 * FP32: expand_values(m, FP32, FP32, row, out); break;
    case 2 * FP32 + 1: expand_values(m, FP32, BF16, row, out); break;
    case 2 * BF16: expand_values(m, BF16, FP32, row, out); break;
    case 2 * BF16 + 1: expand_values(m, BF16, BF16, row, out); break;
    case 2 * INT8: expand_values(m, INT8, FP32, row, out); break;
    default: expand_values(m, INT8, BF16, row, out);
  }
}

static void take_part(int thread) {
  const job *j = &pool.job;
#if defined(__linux__)
  atomic_store(&pool.ran_on[thread], sched_getcpu());
#endif
  for (;;) {
    int64_t begin = atomic_fetch_add(&pool.next_row, j->rows_a_piece);
    if (begin >= j->end) return;
    int64_t end = begin + j->rows_a_piece < j->end ? begin + j->rows_a_piece : j->end;
    for (int64_t row = begin; row < end; row++)
      if (j->expanded)
        expand_row(j, row);
      else
        multiply_row(j, row, pool.scratch[thread]);
  }
}

static void *work(void *argument) {
  int thread = (int)(intptr_t)argument;
  if (pool.cpus[thread] >= 0) pin(pool.cpus[thread]);
  unsigned done = 0;
  for (;;) {
    for (int i = 0; i < ROUNDS_AWAKE && atomic_load(&pool.job_number) == done; i++) pause_cpu();
    if (atomic_load(&pool.job_number) == done) {
      pthread_mutex_lock(&pool.lock);
      while (atomic_load(&pool.job_number) == done) pthread_cond_wait(&pool.is_new, &pool.lock);
      pthread_mutex_unlock(&pool.lock);
    }
    done++;
    if (atomic_load(&pool.is_stopping)) return NULL;
    take_part(thread);
    atomic_fetch_sub(&pool.num_busy, 1);
  }
}

// Wakes the workers for the next job, or for their end.
static void announce(void) {
  atomic_store(&pool.num_busy, pool.num_threads - 1);
  pthread_mutex_lock(&pool.lock);
  atomic_fetch_add(&pool.job_number, 1);
  pthread_cond_broadcast(&pool.is_new);
  pthread_mutex_unlock(&pool.lock);
}

static void stop_workers(void) {
  if (pool.num_threads > 1 && pool.owner == getpid()) {
    atomic_store(&pool.is_stopping, 1);
    announce();
    for (int i = 1; i < pool.num_threads; i++) pthread_join(pool.workers[i], NULL);
    atomic_store(&pool.is_stopping, 0);
  }
  pool.num_threads = 1;
}

// Starts workers 1 to num_threads - 1. Returns how many threads there are, the caller's included.
static int start_workers(int num_threads) {
  atomic_store(&pool.job_number, 0);
  pool.owner = getpid();
  pool.num_threads = 1;
  while (pool.num_threads < num_threads) {
    int i = pool.num_threads;
    if (pthread_create(&pool.workers[i], NULL, work, (void *)(intptr_t)i)) break;
    pool.num_threads++;
  }
  return pool.num_threads;
}

// Gives each thread room for a row's values. Returns 0, or -1 without memory.
static int reserve_scratch(size_t bytes) {
  for (int i = 0; i < pool.num_threads; i++) {
    if (bytes <= pool.scratch_bytes[i]) continue;
    free(pool.scratch[i]);
    pool.scratch[i] = calloc(1, bytes);
    pool.scratch_bytes[i] = pool.scratch[i] ? bytes : 0;
    if (!pool.scratch[i]) return -1;
  }
  return 0;
}

static int reserve_room(size_t bytes) {
  if (bytes <= pool.room_bytes) return 0;
  free(pool.room);
  pool.room_bytes = 0;
  if (posix_memalign(&pool.room, 64, bytes)) return pool.room = NULL, -1;
  pool.room_bytes = bytes;
  return 0;
}

static void run_job(void) {
  int64_t rows = pool.job.end - pool.job.begin, pieces = 8 * pool.num_threads;
  pool.job.rows_a_piece = rows / pieces > 16 ? rows / pieces : 16;
  atomic_store(&pool.next_row, pool.job.begin);
  for (int i = 0; i < pool.num_threads; i++) atomic_store(&pool.ran_on[i], -1);
  if (pool.num_threads > 1) announce();
  take_part(0);
  // A worker that lost its core to another program needs this one's.
  for (int i = 1; atomic_load(&pool.num_busy) > 0 && pool.num_threads > 1; i++)
    if (i % 1000) pause_cpu();
    else sched_yield();
}

static void enter(void) {
  pthread_mutex_lock(&pool.caller);
  if (pool.num_threads > 1 && pool.owner != getpid()) start_workers(pool.num_threads);
}

// ---------------------------------------------------------------------------------------------------------------------
// What Python calls

int mxs_isa(void) { return current_isa; }

// Returns 0, or -1 if this processor cannot run it.
int mxs_use_isa(int isa) {
  if (isa < PORTABLE || isa > NEON || !is_supported(isa)) return -1;
  pthread_mutex_lock(&pool.caller);
  current_isa = isa;
  pthread_mutex_unlock(&pool.caller);
  return 0;
}

// Sets the number of threads, the caller's included, and the core of each: cpus [num_threads] or NULL. The caller's
// own thread is pinned only if `is_caller_pinned`. Returns the number of threads, or -1 if the caller cannot be pinned.
int mxs_set_threads(int num_threads, const int *cpus, int is_caller_pinned) {
  if (num_threads < 1 || num_threads > MAX_THREADS) return -1;
  pthread_mutex_lock(&pool.caller);
  stop_workers();
  for (int i = 0; i < num_threads; i++) pool.cpus[i] = cpus ? cpus[i] : -1;
  int started = start_workers(num_threads);
  if (is_caller_pinned && cpus && pin(cpus[0])) started = -1;
  pthread_mutex_unlock(&pool.caller);
  return started;
}

// Writes the core that each thread ran on in the last job, -1 where unknown. Returns the number of threads.
int mxs_thread_cpus(int *out) {
  pthread_mutex_lock(&pool.caller);
  int num_threads = pool.num_threads;
  for (int i = 0; i < num_threads; i++) out[i] = atomic_load(&pool.ran_on[i]);
  pthread_mutex_unlock(&pool.caller);
  return num_threads;
}

// y [tokens][rows] = x [tokens][cols] times the transpose of the matrix. Returns 0, or -1 without memory.
int mxs_multiply(const mxs_matrix *m, const float *x, int64_t tokens, float *y) {
  enter();
  int status = reserve_room(prepared_bytes(m->cols));
  if (!status) status = reserve_scratch((size_t)((m->cols + OVERREAD) * size_of(m->dtype)));
  for (int64_t t = 0; t < tokens && !status; t += MAX_TOKENS) {
    int now = tokens - t < MAX_TOKENS ? (int)(tokens - t) : MAX_TOKENS;
    enum form form = m->layout == CSR ? (now == 1 ? NATURAL : BY_COLUMN) : loop_sets[current_isa].forms[m->dtype];
    input in;
    prepare(&in, form, x + t * m->cols, now, m->cols, pool.room);
    pool.job = (job){.matrix = m, .in = &in, .tokens = now, .y = y + t * m->rows, .end = m->rows};
    run_job();
  }
  pthread_mutex_unlock(&pool.caller);
  return status;
}

// out [end - begin][cols] = rows begin to end - 1 of the matrix, zeros included, as fp32 or bf16.
void mxs_expand(const mxs_matrix *m, int64_t begin, int64_t end, void *out, int out_dtype) {
  enter();
  pool.job = (job){.matrix = m, .expanded = out, .out_dtype = out_dtype, .begin = begin, .end = end};
  run_job();
  pthread_mutex_unlock(&pool.caller);
}

// columns [row_offsets[rows]] = the column of each value of a bitmask matrix of at most 65,536 columns.
void mxs_columns(const mxs_matrix *m, uint16_t *columns) {
  for (int64_t row = 0; row < m->rows; row++) {
    const uint8_t *mask = m->bitmask + row * ((m->cols + 7) / 8);
    for (int64_t c = 0; c < m->cols; c += 64)
      for (uint64_t word = mask_word(mask, c, m->cols); word; word &= word - 1)
        *columns++ = (uint16_t)(c + __builtin_ctzll(word));
  }
}
