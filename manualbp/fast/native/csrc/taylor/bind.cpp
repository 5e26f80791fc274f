#include "taylor/bind.h"

#include <torch/csrc/PyInterpreter.h>

#include <optional>

#include "exact/python.h"
#include "taylor/jet_node.h"

namespace py = pybind11;

namespace manualbp {
namespace {

std::shared_ptr<JetChain> jet_chain(const std::shared_ptr<Net>& net, const std::string& second,
                                    bool few_outputs, const py::object& function) {
  auto chain = std::make_shared<JetChain>();
  chain->net = net;
  chain->second = second;
  chain->few_outputs = few_outputs;
  const exact::Held held = exact::held(function.ptr());
  chain->recorded = [held](const at::Tensor& x, const at::Tensor& lines,
                           const JetChain::Tensors& parameters, const JetChain::Tensors& grads,
                           const Net::Wants& then, const Net::Wants& now) {
    py::gil_scoped_acquire gil;
    const auto found = py::reinterpret_borrow<py::object>(held->ptr(getPyInterpreter()))(
        x, lines, parameters, grads, then, now);
    JetChain::Tensors result;
    for (const auto& g : found) result.push_back(g.is_none() ? at::Tensor() : g.cast<at::Tensor>());
    return result;
  };
  return chain;
}

}  // namespace

void bind_taylor(py::module_& m) {
  static PyTypeObject jets{PyVarObject_HEAD_INIT(nullptr, 0)};
  exact::name_node<JetNode>(jets, "DerivativesBackward");
  py::class_<JetChain, std::shared_ptr<JetChain>>(m, "JetChain").def(py::init(&jet_chain));
  m.def("derivatives", [](const std::shared_ptr<JetChain>& chain, const at::Tensor& x,
                          const std::optional<at::Tensor>& lines, bool keeps) {
    Derived found;
    {
      py::gil_scoped_release no_gil;
      found = derivatives(chain, x, lines.value_or(at::Tensor()), keeps);
    }
    py::tuple result(found.size());
    for (size_t i = 0; i < found.size(); ++i) result[i] = std::move(found[i]);
    return result;
  });
}

}  // namespace manualbp
