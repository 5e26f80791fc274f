#include "aten_activations.h"

#include <ATen/ops/elu.h>
#include <ATen/ops/elu_backward.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/hardtanh.h>
#include <ATen/ops/hardtanh_backward.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/leaky_relu_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/selu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sigmoid_backward.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/softplus_backward.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>

#include <map>
#include <stdexcept>

namespace manualbp::exact {
namespace {

using at::Tensor;

const double SELU_ALPHA = 1.6732632423543772848170429916717;
const double SELU_SCALE = 1.0507009873554804934193349852946;

}  // namespace

Activation activation_of(const std::string& key, double p, double q) {
  static const std::map<std::string, F> kinds{
      {"sigmoid", F::sigmoid},  {"tanh", F::tanh},
      {"relu", F::relu},        {"leaky_relu", F::leaky_relu},
      {"elu", F::elu},          {"selu", F::selu},
      {"gelu", F::gelu},        {"gelu_tanh", F::gelu_tanh},
      {"silu", F::silu},        {"softplus", F::softplus},
      {"hardtanh", F::hardtanh}};
  const auto found = kinds.find(key);
  if (found == kinds.end()) throw std::invalid_argument("no activation is called " + key);
  return {found->second, p, q};
}

Tensor activate(const Activation& f, const Tensor& z, bool over) {
  Tensor a = z;  // the same memory, where z is written over
  switch (f.kind) {
    case F::sigmoid:
      return over ? at::sigmoid_(a) : at::sigmoid(z);
    case F::tanh:
      return over ? at::tanh_(a) : at::tanh(z);
    case F::relu:
      return over ? at::relu_(a) : at::relu(z);
    case F::leaky_relu:
      return over ? at::leaky_relu_(a, f.p) : at::leaky_relu(z, f.p);
    case F::elu:
      return over ? at::elu_(a, f.p) : at::elu(z, f.p);
    case F::selu:
      return over ? at::selu_(a) : at::selu(z);
    case F::gelu:
      return over ? at::gelu_(a, "none") : at::gelu(z, "none");
    case F::gelu_tanh:
      return over ? at::gelu_(a, "tanh") : at::gelu(z, "tanh");
    case F::silu:
      return over ? at::silu_(a) : at::silu(z);
    case F::softplus:
      return over ? at::softplus_out(a, z, f.p, f.q) : at::softplus(z, f.p, f.q);
    case F::hardtanh:
      return over ? at::hardtanh_(a, f.p, f.q) : at::hardtanh(z, f.p, f.q);
  }
  return a;
}

Tensor slope(const Activation& f, const Tensor& delta, const Tensor& z_or_a, bool over) {
  const Tensor &g = delta, &z = z_or_a, &a = z_or_a;
  Tensor d = delta;  // the same memory, where delta is written over
  switch (f.kind) {
    case F::sigmoid:  // a (1 - a)
      return over ? at::sigmoid_backward_out(d, g, a) : at::sigmoid_backward(g, a);
    case F::tanh:  // 1 - a^2
      return over ? at::tanh_backward_out(d, g, a) : at::tanh_backward(g, a);
    case F::relu:  // 1 where a > 0
      return over ? at::threshold_backward_out(d, g, a, 0) : at::threshold_backward(g, a, 0);
    case F::leaky_relu:  // 1 where z > 0, else p
      return over ? at::leaky_relu_backward_out(d, g, z, f.p, false)
                  : at::leaky_relu_backward(g, z, f.p, false);
    case F::elu:  // 1 where z > 0, else p e^z
      return over ? at::elu_backward_out(d, g, f.p, 1, 1, false, z)
                  : at::elu_backward(g, f.p, 1, 1, false, z);
    case F::selu:  // s where z > 0, else s alpha e^z
      return over ? at::elu_backward_out(d, g, SELU_ALPHA, SELU_SCALE, 1, false, z)
                  : at::elu_backward(g, SELU_ALPHA, SELU_SCALE, 1, false, z);
    case F::gelu:  // Phi(z) + z phi(z)
      return over ? at::gelu_backward_out(d, g, z, "none") : at::gelu_backward(g, z, "none");
    case F::gelu_tanh:  // (1 + t) / 2 + z (1 - t^2) u' / 2
      return over ? at::gelu_backward_out(d, g, z, "tanh") : at::gelu_backward(g, z, "tanh");
    case F::silu:  // s (1 + z (1 - s))
      return over ? at::silu_backward_out(d, g, z) : at::silu_backward(g, z);
    case F::softplus:  // sigmoid(p z); 1 where p z > q
      return over ? at::softplus_backward_out(d, g, z, f.p, f.q)
                  : at::softplus_backward(g, z, f.p, f.q);
    case F::hardtanh:  // 1 where p < z < q
      return over ? at::hardtanh_backward_out(d, g, z, f.p, f.q)
                  : at::hardtanh_backward(g, z, f.p, f.q);
  }
  return d;
}

}  // namespace manualbp::exact
