// A chain of layers as the tiles run it.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace manualbp {

// z = h W^T + b and a = f(z) behind it;  or a = f(h);  or LayerNorm.
struct Layer {
  enum Kind { kLinear, kActivation, kLayerNorm } kind;
  int64_t inputs, outputs;
  std::string f = "identity";
  double p = 0, q = 0;         // of f
  double eps = 0;              // of LayerNorm
  int weight = -1, bias = -1;  // where they lie among the parameters; -1 for none
};

// The layers, first one first, with parameters in the order of maths/backprop.py's flat.
struct Net {
  Net(int64_t features, std::vector<at::Tensor> parameters);

  int64_t features;  // of x
  std::vector<Layer> layers;
  std::vector<at::Tensor> parameters;
  // dC/dx and every dC/dtheta from delta = dC/do, while autograd records: maths/backprop.py.
  using Tensors = std::vector<at::Tensor>;
  std::function<Tensors(const at::Tensor& x, const Tensors& parameters, const at::Tensor& delta,
                        const std::vector<bool>& wants)>
      recorded;

  void linear(int weight, int bias);
  void activation(const std::string& f, double p, double q);
  void layer_norm(int64_t features, double eps, int weight, int bias);

  int64_t widest() const;
  int64_t products() const;  // multiplications for a row of a forward pass
};

using NetPtr = std::shared_ptr<const Net>;

}  // namespace manualbp
