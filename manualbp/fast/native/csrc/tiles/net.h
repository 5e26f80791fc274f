// A chain of layers as the tiles run it: fast/native/tiled.py describes it, layer by layer.
#pragma once
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace manualbp {

// A new tensor of floats, not set to anything. at::empty takes twice as long to find the same.
at::Tensor floats(at::IntArrayRef shape);

// One of these three:
//     kLinear        a = f(h W^T + b), where f may be the identity
//     kActivation    a = f(h), where no Linear stands in front of f
//     kLayerNorm     a = xhat gamma + beta, of each row
struct Layer {
  enum Kind { kLinear, kActivation, kLayerNorm } kind;
  int64_t inputs, outputs;
  std::string f = "identity";
  double p = 0, q = 0;         // of f
  double eps = 0;              // of LayerNorm
  int weight = -1, bias = -1;  // W or gamma, b or beta: places among Net's parameters; -1 for none
};

// The layers, first one first, with parameters in the order of maths/backprop.py's flat.
struct Net {
  Net(int64_t features, int64_t tile_rows, std::vector<at::Tensor> parameters);

  int64_t features;   // of x
  int64_t tile_rows;  // the most rows of a tile; 0 leaves the choice to tiles/tile.cpp
  std::vector<Layer> layers;
  std::vector<at::Tensor> parameters;
  // Every dC/dtheta, then dC/dx, from delta = dC/do, by Python's recursion: for a pass that
  // autograd records. `then` and `now`: whether each of these wanted a gradient at forward, and
  // wants one now. Calls tiled.py's `_recorded`.
  using Tensors = std::vector<at::Tensor>;
  using Wants = std::vector<bool>;
  std::function<Tensors(const at::Tensor& x, const Tensors& parameters, const at::Tensor& delta,
                        const Wants& then, const Wants& now)>
      recorded;

  // Each adds a layer behind the others. An activation joins the Linear in front of it.
  void linear(int weight, int bias);
  void activation(const std::string& f, double p, double q);
  void layer_norm(int64_t features, double eps, int weight, int bias);

  int64_t widest() const;    // the most columns of x and of any layer's output
  int64_t products() const;  // multiplications for a row of a forward pass
};

using NetPtr = std::shared_ptr<const Net>;

}  // namespace manualbp
