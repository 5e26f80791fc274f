#include "taylor/bind.h"

#include <optional>

#include "exact/python.h"
#include "taylor/jet_node.h"

namespace py = pybind11;

namespace manualbp {
namespace {

std::shared_ptr<JetChain> jet_chain(const std::shared_ptr<Net>& net, const Order& order,
                                    bool few_outputs, const py::object& function) {
  auto chain = std::make_shared<JetChain>();
  chain->net = net;
  chain->order = order;
  chain->few_outputs = few_outputs;
  chain->recorded =
      exact::python_function<const at::Tensor&, const at::Tensor&, const JetChain::Tensors&,
                             const JetChain::Tensors&, const Net::Wants&, const Net::Wants&>(
          function);
  return chain;
}

}  // namespace

void bind_taylor(py::module_& m) {
  static PyTypeObject jets{PyVarObject_HEAD_INIT(nullptr, 0)};
  exact::name_node<JetNode>(jets, "DerivativesBackward");
  py::class_<Order>(m, "Order").def(
      py::init([](int64_t lines, const decltype(Order::squares)& squares,
                  const std::vector<int64_t>& columns, const std::vector<int64_t>& shape) {
        return Order{lines, squares, columns, shape};
      }));
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
