// What Python sees of this library. The only file that knows pybind11.
#include <torch/csrc/utils/pybind.h>

#include "descent.h"
#include "tiles/fused.h"

namespace py = pybind11;
using manualbp::Loss;
using manualbp::Net;

// A Python function as a C++ one, which may be called, copied and freed without the GIL.
static void set_recorded(Net& net, py::object function) {
  std::shared_ptr<py::object> held(new py::object(std::move(function)), [](py::object* f) {
    if (!Py_IsInitialized()) return;
    py::gil_scoped_acquire gil;
    delete f;
  });
  net.recorded = [held](const at::Tensor& x, const Net::Tensors& parameters,
                        const at::Tensor& delta, const std::vector<bool>& wants) {
    py::gil_scoped_acquire gil;
    const auto found = (*held)(x, parameters, delta, wants);
    Net::Tensors result;
    for (const auto& g : found) result.push_back(g.is_none() ? at::Tensor() : g.cast<at::Tensor>());
    return result;
  };
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using no_gil = py::call_guard<py::gil_scoped_release>;
  m.def("descend", &manualbp::descend, py::arg("parameters"), py::arg("epsilon"), no_gil());
  py::class_<Loss>(m, "Loss").def(
      py::init([](std::string name, bool mean, double p, int64_t ignore_index,
                  std::optional<at::Tensor> weight, std::optional<at::Tensor> pos_weight) {
        return Loss{std::move(name), mean, p, ignore_index, weight, pos_weight};
      }),
      py::arg("name"), py::arg("mean"), py::arg("p"), py::arg("ignore_index"), py::arg("weight"),
      py::arg("pos_weight"));
  py::class_<Net, c10::intrusive_ptr<Net>>(m, "Net")
      .def(py::init<int64_t, std::vector<at::Tensor>>(), py::arg("features"), py::arg("parameters"))
      .def("linear", &Net::linear)
      .def("activation", &Net::activation)
      .def("layer_norm", &Net::layer_norm)
      .def("recorded", &set_recorded);
  m.def("chain", &manualbp::chain, no_gil());
  m.def("fused_cost", &manualbp::fused_cost, no_gil());
  m.def("fused_backward", &manualbp::fused_backward, no_gil());
  m.def("accumulates", &manualbp::accumulates);
}
