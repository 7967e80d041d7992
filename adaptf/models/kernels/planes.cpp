// Passes over activations (batch, channels, height, width) of float32 or float64, each of which does in the
// processor's cache what PyTorch does in several passes over memory. A plane is one channel of one clip.
// fused.py says what each is for. What is summed over planes is left to it, so that no result depends on
// the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")
#endif

#define SIMD _Pragma("omp simd")
#define PARALLEL_FOR _Pragma("omp parallel for")
#define THREADS _Pragma("omp parallel")
#define SHARED_FOR _Pragma("omp for")

namespace {

using Size = int64_t;

template <typename T>
struct Buffer {  // with `margin` zeros on both sides
  std::vector<T> all;
  T* data;
  explicit Buffer(Size size, Size margin = 0) : all(size + 2 * margin, T(0)), data(all.data() + margin) {}
};

template <typename T>
void moments(const T* x, Size size, double* mean, double* squares) {
  T sum = 0, sum2 = 0;
#pragma omp simd reduction(+ : sum)
  for (Size i = 0; i < size; ++i) sum += x[i];
  const T center = sum / size;
#pragma omp simd reduction(+ : sum2)
  for (Size i = 0; i < size; ++i) sum2 += (x[i] - center) * (x[i] - center);
  *mean = center, *squares = sum2;
}

template <typename T>
void plane_moments(const T* x, double* mean, double* squares, Size planes, Size size) {
  PARALLEL_FOR for (Size p = 0; p < planes; ++p) moments(x + p * size, size, mean + p, squares + p);
}

// As PyTorch's, it leaves what is no number, and lets its gradient through: who trains has to see it.
template <typename T>
T relu(T value) {
  return value <= 0 ? T(0) : value;
}

template <typename T>
void scale_relu(const T* x, const T* scale, const T* shift, T* y, Size planes, Size channels, Size size) {
  PARALLEL_FOR for (Size p = 0; p < planes; ++p) {
    const T a = scale[p % channels], b = shift[p % channels], *in = x + p * size;
    T* out = y + p * size;
    SIMD for (Size i = 0; i < size; ++i) out[i] = relu(a * in[i] + b);
  }
}

// Of the gradient that ReLU lets through: its sum, and its sum with x - mean.
template <typename T>
void relu_sums(const T* g, const T* x, T a, T b, T mean, Size size, double* sums, double* products) {
  T sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
  for (Size i = 0; i < size; ++i) {
    const T passed = a * x[i] + b <= 0 ? T(0) : g[i];
    sum += passed;
    product += passed * (x[i] - mean);
  }
  *sums = sum, *products = product;
}

template <typename T>
void scale_relu_sums(const T* g, const T* x, const T* scale, const T* shift, const T* mean, double* sums,
                     double* products, Size planes, Size channels, Size size) {
  PARALLEL_FOR for (Size p = 0; p < planes; ++p) {
    const Size c = p % channels;
    relu_sums(g + p * size, x + p * size, scale[c], shift[c], mean[c], size, sums + p, products + p);
  }
}

template <typename T>
void relu_backward(const T* g, const T* x, T a, T b, T offset, T slope, Size size, T* dx) {
  SIMD for (Size i = 0; i < size; ++i) {
    const T passed = a * x[i] + b <= 0 ? T(0) : g[i];
    dx[i] = a * passed + offset + slope * x[i];
  }
}

template <typename T>
void scale_relu_backward(const T* g, const T* x, const T* scale, const T* shift, const T* offset,
                         const T* slope, T* dx, Size planes, Size channels, Size size) {
  PARALLEL_FOR for (Size p = 0; p < planes; ++p) {
    const Size c = p % channels, at = p * size;
    relu_backward(g + at, x + at, scale[c], shift[c], offset[c], slope[c], size, dx + at);
  }
}

// Leaves 1 / std and -mean / std, (batch, height) each.
template <typename T>
void residual_norm(const T* x, T* y, T* inverse_std, T* shift, Size batch, Size channels, Size height,
                   Size width, double shortcut, double epsilon) {
  const Size size = height * width, count = channels * width;
  PARALLEL_FOR for (Size b = 0; b < batch; ++b) {
    std::vector<T> sums(size, T(0)), squares(size, T(0)), factor(size), offset(size);
    const T* in = x + b * channels * size;
    T *out = y + b * channels * size, *s = sums.data(), *q = squares.data(), *f = factor.data(), *o = offset.data();
    for (Size c = 0; c < channels; ++c)
      SIMD for (Size i = 0; i < size; ++i) s[i] += in[c * size + i];
    for (Size h = 0; h < height; ++h)
      std::fill_n(o + h * width, width, T(std::accumulate(s + h * width, s + (h + 1) * width, 0.0) / count));
    for (Size c = 0; c < channels; ++c)
      SIMD for (Size i = 0; i < size; ++i) {
        const T deviation = in[c * size + i] - o[i];
        q[i] += deviation * deviation;
      }
    for (Size h = 0; h < height; ++h) {
      const double sum = std::accumulate(q + h * width, q + (h + 1) * width, 0.0);
      const double inverse = 1 / std::sqrt(sum / (count - 1) + epsilon);
      const Size row = b * height + h;
      inverse_std[row] = inverse, shift[row] = -o[h * width] * inverse;
      std::fill_n(f + h * width, width, T(inverse + shortcut));
      std::fill_n(o + h * width, width, shift[row]);
    }
    for (Size c = 0; c < channels; ++c)
      SIMD for (Size i = 0; i < size; ++i) out[c * size + i] = f[i] * in[c * size + i] + o[i];
  }
}

template <typename T>
void residual_norm_backward(const T* g, const T* x, const T* inverse_std, const T* shift, T* dx, Size batch,
                            Size channels, Size height, Size width, double shortcut) {
  const Size size = height * width, count = channels * width;
  PARALLEL_FOR for (Size b = 0; b < batch; ++b) {
    std::vector<T> sums(size, T(0)), products(size, T(0)), factor(size), offset(size), slope(size);
    const T *in = x + b * channels * size, *grad = g + b * channels * size;
    T *out = dx + b * channels * size, *s = sums.data(), *p = products.data();
    T *f = factor.data(), *o = offset.data(), *k = slope.data();
    for (Size i = 0; i < size; ++i)
      f[i] = inverse_std[b * height + i / width], o[i] = shift[b * height + i / width];
    for (Size c = 0; c < channels; ++c)
      SIMD for (Size i = 0; i < size; ++i) {
        const T gradient = grad[c * size + i];
        s[i] += gradient;
        p[i] += gradient * (f[i] * in[c * size + i] + o[i]);
      }
    for (Size h = 0; h < height; ++h) {
      const double sum = std::accumulate(s + h * width, s + (h + 1) * width, 0.0);
      const double product = std::accumulate(p + h * width, p + (h + 1) * width, 0.0);
      const double inverse = f[h * width], share = inverse * product / (count - 1);
      std::fill_n(f + h * width, width, T(inverse + shortcut));
      std::fill_n(k + h * width, width, T(-share * inverse));
      std::fill_n(o + h * width, width, T(-inverse * sum / count - share * o[h * width]));
    }
    for (Size c = 0; c < channels; ++c)
      SIMD for (Size i = 0; i < size; ++i)
        out[c * size + i] = f[i] * grad[c * size + i] + o[i] + k[i] * in[c * size + i];
  }
}

// 3x3 convolution of one input to several outputs, stride 2, a zero around. The parts of an even plane: even
// and odd rows, of each the columns left of, at and right of every output. Odd rows have one of zeros before
// them. So every tap is a part, and the three of the row above an output the odd ones, moved by a row.
template <typename T>
struct Parts {
  Size rows, columns, size;
  Buffer<T> all;
  T* of[2][3];
  Parts(Size height, Size width)
      : rows(height / 2), columns(width / 2), size(rows * columns), all(6 * (size + columns)) {
    for (Size part = 0; part < 6; ++part) of[part / 3][part % 3] = all.data + part * (size + columns) + columns;
  }
  void split(const T* x) {
    for (Size h = 0; h < 2 * rows; ++h) {
      const Size at = h / 2 * columns;
      const T* in = x + h * 2 * columns;
      T *left = of[h % 2][0] + at, *mid = of[h % 2][1] + at, *right = of[h % 2][2] + at;
      SIMD for (Size w = 0; w < columns; ++w) mid[w] = in[2 * w], right[w] = in[2 * w + 1];
      left[0] = 0;
      std::copy_n(right, columns - 1, left + 1);
    }
  }
  void merge(T* x) const {
    for (Size h = 0; h < 2 * rows; ++h) {
      const Size at = h / 2 * columns;
      const T *left = of[h % 2][0] + at, *mid = of[h % 2][1] + at, *right = of[h % 2][2] + at;
      T* out = x + h * 2 * columns;
      for (Size w = 0; w < columns; ++w)
        out[2 * w] = mid[w], out[2 * w + 1] = right[w] + (w + 1 < columns ? left[w + 1] : T(0));
    }
  }
};

template <typename T>
void halving(const T* x, const T* weight, T* y, double* mean, double* squares, Size batch, Size groups,
             Size outputs, Size height, Size width) {
  THREADS {
    Parts<T> parts(height, width);
    const Size size = parts.size, up = parts.columns;
    const T *el = parts.of[0][0], *em = parts.of[0][1], *er = parts.of[0][2];
    const T *ol = parts.of[1][0], *om = parts.of[1][1], *orr = parts.of[1][2];
    SHARED_FOR for (Size p = 0; p < batch * groups; ++p) {
      parts.split(x + p * height * width);
      for (Size m = p * outputs; m < (p + 1) * outputs; ++m) {
        const T* w = weight + 9 * (m % (groups * outputs));
        T* out = y + m * size;
        SIMD for (Size i = 0; i < size; ++i)
          out[i] = w[0] * ol[i - up] + w[1] * om[i - up] + w[2] * orr[i - up] + w[3] * el[i] + w[4] * em[i] +
                   w[5] * er[i] + w[6] * ol[i] + w[7] * om[i] + w[8] * orr[i];
        moments(out, size, mean + m, squares + m);
      }
    }
  }
}

// `dx` may be null. `dw`: (batch, groups * outputs, 9).
template <typename T>
void halving_backward(const T* g, const T* x, const T* weight, T* dx, T* dw, Size batch, Size groups,
                      Size outputs, Size height, Size width) {
  THREADS {
    Parts<T> parts(height, width), gradients(height, width);
    const Size size = parts.size, up = parts.columns;
    Buffer<T> padded(size, up);
    T* dy = padded.data;
    SHARED_FOR for (Size p = 0; p < batch * groups; ++p) {
      parts.split(x + p * height * width);
      std::fill(gradients.all.all.begin(), gradients.all.all.end(), T(0));
      for (Size m = p * outputs; m < (p + 1) * outputs; ++m) {
        const T* w = weight + 9 * (m % (groups * outputs));
        std::copy_n(g + m * size, size, dy);
        for (Size k = 0; k < 3; ++k) {
          const T *even = parts.of[0][k], *odd = parts.of[1][k];
          T above = 0, at = 0, below = 0, *to_even = gradients.of[0][k], *to_odd = gradients.of[1][k];
#pragma omp simd reduction(+ : above, at, below)
          for (Size i = 0; i < size; ++i) {
            above += dy[i] * odd[i - up], at += dy[i] * even[i], below += dy[i] * odd[i];
          }
          dw[9 * m + k] = above, dw[9 * m + 3 + k] = at, dw[9 * m + 6 + k] = below;
          if (!dx) continue;
          const T w0 = w[k], w1 = w[3 + k], w2 = w[6 + k];
          SIMD for (Size i = 0; i < size; ++i) {
            to_even[i] += w1 * dy[i];
            to_odd[i] += w2 * dy[i] + w0 * dy[i + up];
          }
        }
      }
      if (dx) gradients.merge(dx + p * height * width);
    }
  }
}

// A plane convolved by three taps over its height or width, zeros around, whose mean over that axis is taken.
// Clips of x lie `stride` apart.
template <typename T>
struct Axis {
  const Size channels, height, width, size, stride, step;
  const bool high;  // over the height
  Buffer<T> in, y, grad, left, right;  // 1 where there is a neighbour
  T share;
  Axis(Size channels, Size height, Size width, Size stride, bool high)
      : channels(channels), height(height), width(width), size(height * width), stride(stride),
        step(high ? width : 1), high(high), in(size, step), y(size), grad(size, step), left(size, step),
        right(size, step), share(T(1) / (high ? height : width)) {
    for (Size i = 0; i < size; ++i)
      left.data[i] = high || i % width > 0, right.data[i] = high || i % width < width - 1;
  }
  void convolve(const T* x, const T* weight, Size p) {
    std::copy_n(x + p / channels * stride + p % channels * size, size, in.data);
    const T *w = weight + 3 * (p % channels), *v = in.data, *l = left.data, *r = right.data;
    T* out = y.data;
    SIMD for (Size i = 0; i < size; ++i) out[i] = w[1] * v[i] + w[0] * l[i] * v[i - step] + w[2] * r[i] * v[i + step];
  }
  void spread(const T* g, Size p) {
    const T* from = g + p * (high ? width : height);
    for (Size h = 0; h < height; ++h)
      for (Size w = 0; w < width; ++w) grad.data[h * width + w] = share * from[high ? w : h];
  }
};

template <typename T>
void axis_moments(const T* x, const T* weight, double* mean, double* squares, Size batch, Size channels, Size height,
                  Size width, Size stride, Size high) {
  THREADS {
    Axis<T> axis(channels, height, width, stride, high);
    SHARED_FOR for (Size p = 0; p < batch * channels; ++p) {
      axis.convolve(x, weight, p);
      moments(axis.y.data, axis.size, mean + p, squares + p);
    }
  }
}

template <typename T>
void axis_means(const T* x, const T* weight, const T* scale, const T* shift, T* means, Size batch, Size channels,
                Size height, Size width, Size stride, Size high) {
  THREADS {
    Axis<T> axis(channels, height, width, stride, high);
    SHARED_FOR for (Size p = 0; p < batch * channels; ++p) {
      axis.convolve(x, weight, p);
      T *y = axis.y.data, *to = means + p * (high ? width : height);
      const T a = scale[p % channels], b = shift[p % channels];
      SIMD for (Size i = 0; i < axis.size; ++i) y[i] = axis.share * relu(a * y[i] + b);
      std::fill_n(to, high ? width : height, T(0));
      for (Size h = 0; h < height; ++h)
        for (Size w = 0; w < width; ++w) to[high ? w : h] += y[h * width + w];
    }
  }
}

template <typename T>
void axis_sums(const T* g, const T* x, const T* weight, const T* scale, const T* shift, const T* mean, double* sums,
               double* products, Size batch, Size channels, Size height, Size width, Size stride, Size high) {
  THREADS {
    Axis<T> axis(channels, height, width, stride, high);
    SHARED_FOR for (Size p = 0; p < batch * channels; ++p) {
      const Size c = p % channels;
      axis.convolve(x, weight, p);
      axis.spread(g, p);
      relu_sums(axis.grad.data, axis.y.data, scale[c], shift[c], mean[c], axis.size, sums + p, products + p);
    }
  }
}

// `dw`: (batch, channels, 3).
template <typename T>
void axis_backward(const T* g, const T* x, const T* weight, const T* scale, const T* shift, const T* offset,
                   const T* slope, T* dx, T* dw, Size batch, Size channels, Size height, Size width, Size stride,
                   Size high) {
  THREADS {
    Axis<T> axis(channels, height, width, stride, high);
    const T *v = axis.in.data, *l = axis.left.data, *r = axis.right.data;
    const Size size = axis.size, step = axis.step;
    T* dy = axis.grad.data;
    SHARED_FOR for (Size p = 0; p < batch * channels; ++p) {
      const Size c = p % channels;
      axis.convolve(x, weight, p);
      axis.spread(g, p);
      relu_backward(dy, axis.y.data, scale[c], shift[c], offset[c], slope[c], size, dy);
      const T *w = weight + 3 * c, w0 = w[0], w1 = w[1], w2 = w[2];
      T s0 = 0, s1 = 0, s2 = 0, *to = dx + p * size;
#pragma omp simd reduction(+ : s0, s1, s2)
      for (Size i = 0; i < size; ++i) {
        s0 += dy[i] * l[i] * v[i - step], s1 += dy[i] * v[i], s2 += dy[i] * r[i] * v[i + step];
        to[i] = w1 * dy[i] + w0 * l[i + step] * dy[i + step] + w2 * r[i - step] * dy[i - step];
      }
      dw[3 * p] = s0, dw[3 * p + 1] = s1, dw[3 * p + 2] = s2;
    }
  }
}

}  // namespace

#define KERNEL(name) \
  if (!std::strcmp(wanted, #name)) \
    return is_double ? reinterpret_cast<void*>(&name<double>) : reinterpret_cast<void*>(&name<float>);

extern "C" int kernels_version() { return 1; }  // as in library.py

extern "C" void* find_kernel(const char* wanted, int is_double) {
  KERNEL(plane_moments)
  KERNEL(scale_relu)
  KERNEL(scale_relu_sums)
  KERNEL(scale_relu_backward)
  KERNEL(residual_norm)
  KERNEL(residual_norm_backward)
  KERNEL(halving)
  KERNEL(halving_backward)
  KERNEL(axis_moments)
  KERNEL(axis_means)
  KERNEL(axis_sums)
  KERNEL(axis_backward)
  return nullptr;
}
