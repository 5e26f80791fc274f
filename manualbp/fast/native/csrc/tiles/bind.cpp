#include "tiles/bind.h"

#include <torch/csrc/autograd/python_variable.h>

#include "exact/guard.h"
#include "exact/python.h"
#include "tiles/fused.h"

namespace py = pybind11;

namespace manualbp {
namespace {

// A call that a guard serves: o of x.
struct ServedTiles : exact::Served {
  PyObject* run(PyObject* const* given) const override {
    const at::Tensor x = THPVariable_Unpack(given[0]);
    return THPVariable_Wrap(exact::without_gil([&] { return chain(net, x, keeps); }));
  }
  NetPtr net;
  bool keeps;
};

// C of x and y: with a graph; or, in the second way, with every gradient added to .grad.
// An undefined tensor, which is None, says that autograd has to do that.
struct ServedFused : exact::Served {
  PyObject* run(PyObject* const* given) const override {
    const at::Tensor x = THPVariable_Unpack(given[0]), y = THPVariable_Unpack(given[1]);
    return THPVariable_Wrap(exact::without_gil([&] {
      if (!second) return fused_cost(net, loss, x, y);
      return accumulates(*net, x) ? fused_backward(net, loss, x, y) : at::Tensor();
    }));
  }
  NetPtr net;
  exact::Loss loss;
};

void serve_tiles(exact::Guard& guard, const std::shared_ptr<Net>& net, const py::list& tensors,
                 const at::Tensor& x, bool keeps) {
  auto served = std::make_shared<ServedTiles>();
  served->net = net;
  served->keeps = keeps;
  served->describe({x}, tensors.ptr());
  guard.serve(std::move(served), tensors.ptr());
}

void serve_fused(exact::Guard& guard, const std::shared_ptr<Net>& net, const exact::Loss& loss,
                 const py::list& tensors, const at::Tensor& x, const at::Tensor& y) {
  for (const bool without_graph : {false, true}) {
    auto served = std::make_shared<ServedFused>();
    served->net = net;
    served->loss = loss;
    served->second = without_graph;
    served->describe({x, y}, tensors.ptr());
    guard.serve(std::move(served), tensors.ptr());
  }
}

}  // namespace

void bind_tiles(py::module_& m) {
  // So that grad_fn says what it is.
  static PyTypeObject tiles{PyVarObject_HEAD_INIT(nullptr, 0)};
  static PyTypeObject fused{PyVarObject_HEAD_INIT(nullptr, 0)};
  exact::name_node<TilesNode>(tiles, "TilesBackward");
  exact::name_node<FusedNode>(fused, "FusedLossBackward");
  using no_gil = py::call_guard<py::gil_scoped_release>;
  py::class_<Net, std::shared_ptr<Net>>(m, "Net")
      .def(py::init([](int64_t features, int64_t tile_rows, std::vector<at::Tensor> parameters,
                       const py::object& recorded) {
        auto net = std::make_shared<Net>(features, tile_rows, std::move(parameters));
        net->recorded =
            exact::python_function<const at::Tensor&, const Net::Tensors&, const at::Tensor&,
                                   const Net::Wants&, const Net::Wants&>(recorded);
        return net;
      }))
      .def("linear", &Net::linear)
      .def("activation", &Net::activation)
      .def("layer_norm", &Net::layer_norm);
  m.def("tiles", &chain, no_gil());
  m.def("fused_cost", &fused_cost, no_gil());
  m.def("fused_backward", &fused_backward, no_gil());
  m.def("accumulates",
        [](const std::shared_ptr<Net>& net, const at::Tensor& x) { return accumulates(*net, x); });
  m.def("serve_tiles", &serve_tiles);
  m.def("serve_fused", &serve_fused);
}

}  // namespace manualbp
