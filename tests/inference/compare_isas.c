// Compares the instruction sets of a processor with the portable loops, without Python: for processors that are emulated.

#include "kernels.c"

#include <stdio.h>

static double uniform(void) { return rand() / (RAND_MAX + 1.0); }

// Draws a bitmask matrix into the arrays, which are large enough.
static mxs_matrix draw(int64_t rows, int64_t cols, double density, int dtype, void *values, uint8_t *bitmask,
                       int64_t *row_offsets, float *scales) {
  int64_t k = 0;
  memset(bitmask, 0, (size_t)(rows * ((cols + 7) / 8)));
  for (int64_t row = 0; row < rows; row++) {
    row_offsets[row] = k;
    scales[row] = 0.5f;
    for (int64_t c = 0; c < cols; c++)
      if (uniform() < density) {
        bitmask[row * ((cols + 7) / 8) + c / 8] |= (uint8_t)(1 << c % 8);
        if (dtype == INT8) ((int8_t *)values)[k++] = (int8_t)(rand() % 255 - 127);
        if (dtype == BF16) ((uint16_t *)values)[k++] = to_bf16((float)(uniform() - 0.5));
        if (dtype == FP32) ((float *)values)[k++] = (float)(uniform() - 0.5);
      }
  }
  row_offsets[rows] = k;
  return (mxs_matrix){BITMASK, dtype, rows, cols, values, bitmask, NULL, row_offsets, scales};
}

// Returns 0 if the instruction set gives what the portable loops give: int8 the same bits, floats up to rounding.
static int differs(const mxs_matrix *m, int isa, const float *x, int tokens) {
  static float expected[64 * 16], found[64 * 16];
  if (mxs_use_isa(PORTABLE) || mxs_multiply(m, x, tokens, expected)) return 1;
  if (mxs_use_isa(isa) || mxs_multiply(m, x, tokens, found)) return 1;
  for (int64_t i = 0; i < tokens * m->rows; i++) {
    double bound = m->dtype == INT8 ? 0 : 1e-6 * (double)m->cols;
    if (!(fabs((double)expected[i] - found[i]) <= bound)) {
      printf("isa %d dtype %d rows %ld cols %ld tokens %d: %g, must be %g\n", isa, m->dtype, (long)m->rows,
             (long)m->cols, tokens, found[i], expected[i]);
      return 1;
    }
  }
  return 0;
}

int main(void) {
  static float values[64 * 1100], x[16 * 1100], scales[64];
  static uint8_t bitmask[64 * 140];
  static int64_t row_offsets[65];
  const int64_t widths[] = {1, 7, 8, 63, 64, 65, 157, 1000, 1088};
  const double densities[] = {0, 0.05, 0.3, 0.7, 1};
  int compared = 0;
  for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = (float)(uniform() - 0.5);
  for (int isa = PORTABLE + 1; isa <= NEON; isa++)
    for (int dtype = FP32; dtype <= INT8 && is_supported(isa); dtype++)
      for (int w = 0; w < 9; w++)
        for (int d = 0; d < 5; d++)
          for (int tokens = 1; tokens <= 9; tokens++, compared++) {
            int64_t rows = 1 + rand() % 40;
            mxs_matrix m = draw(rows, widths[w], densities[d], dtype, values, bitmask, row_offsets, scales);
            mxs_set_threads(1 + tokens % 3, NULL, 0);
            if (differs(&m, isa, x, tokens)) return 1;
          }
  printf("%d products agree\n", compared);
  return compared == 0;
}
