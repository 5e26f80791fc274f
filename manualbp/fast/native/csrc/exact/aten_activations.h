// a = f(z),  dC/dz = dC/da * f'(z), by ATen's kernels: autograd's bits.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace manualbp::exact {

// The keys of manualbp.maths.activations.ACTIVATIONS that compute something.
enum class F {
  sigmoid,
  tanh,
  relu,
  leaky_relu,
  elu,
  selu,
  gelu,
  gelu_tanh,
  silu,
  softplus,
  hardtanh
};

struct Activation {
  F kind = F::relu;
  double p = 0;  // LeakyReLU's negative_slope; ELU's alpha; Softplus's beta; Hardtanh's min_val
  double q = 0;  // Softplus's threshold; Hardtanh's max_val

  // f' is computed from a instead of z, so z need not be kept.
  bool reads_a() const { return kind == F::sigmoid || kind == F::tanh || kind == F::relu; }
};

// Raises std::invalid_argument for a key that is not known here.
Activation activation_of(const std::string& key, double p, double q);

// f(z); over z itself where ``over``.
at::Tensor activate(const Activation& f, const at::Tensor& z, bool over);

// delta * f'(z), z_or_a as f' needs; over delta itself where ``over``.
at::Tensor slope(const Activation& f, const at::Tensor& delta, const at::Tensor& z_or_a, bool over);

}  // namespace manualbp::exact
