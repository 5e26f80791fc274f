#include "taylor/bind.h"

#include <torch/csrc/autograd/python_variable.h>

#include <optional>

#include "exact/guard.h"
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

py::tuple tuple_of(Derived&& found) {
  py::tuple result(found.size());
  for (size_t i = 0; i < found.size(); ++i) result[i] = std::move(found[i]);
  return result;
}

bool is_number(PyObject* object, int64_t number) {
  int overflow = 0;
  return PyLong_CheckExact(object) && PyLong_AsLongLongAndOverflow(object, &overflow) == number;
}

// u and its derivatives of x, along the axes; or of x and the lines.
struct ServedJets : exact::Served {
  PyObject* run(PyObject* const* given) const override {
    const at::Tensor x = THPVariable_Unpack(given[0]);
    const at::Tensor lines = inputs.size() > 1 ? THPVariable_Unpack(given[1]) : axes;
    return tuple_of(exact::without_gil([&] { return derivatives(chain, x, lines, keeps); }))
        .release()
        .ptr();
  }

  // The way is what Python's `second` says: None, a name, or a list or tuple of pairs.
  bool in_way(PyObject* way) const override {
    if (Py_IsNone(way)) return name.empty() && pairs.empty();
    if (PyUnicode_CheckExact(way)) {
      return !name.empty() && PyUnicode_CompareWithASCIIString(way, name.c_str()) == 0;
    }
    const auto is_sequence = [](PyObject* each, size_t length) {
      return (PyList_CheckExact(each) || PyTuple_CheckExact(each)) &&
             PySequence_Fast_GET_SIZE(each) == static_cast<Py_ssize_t>(length);
    };
    if (pairs.empty() || !is_sequence(way, pairs.size())) return false;
    for (size_t i = 0; i < pairs.size(); ++i) {
      PyObject* each = PySequence_Fast_GET_ITEM(way, i);
      if (!is_sequence(each, 2) || !is_number(PySequence_Fast_GET_ITEM(each, 0), pairs[i].first) ||
          !is_number(PySequence_Fast_GET_ITEM(each, 1), pairs[i].second)) {
        return false;
      }
    }
    return true;
  }

  JetChainPtr chain;
  bool keeps;
  at::Tensor axes;
  std::string name;                                // of `second`
  std::vector<std::pair<int64_t, int64_t>> pairs;  // or those that it lists
};

void serve_derivatives(exact::Guard& guard, const std::shared_ptr<JetChain>& chain,
                       const std::optional<at::Tensor>& axes, bool keeps, const py::object& second,
                       const py::list& tensors, const at::Tensor& x,
                       const std::optional<at::Tensor>& directions) {
  auto served = std::make_shared<ServedJets>();
  served->chain = chain;
  served->keeps = keeps;
  served->axes = axes.value_or(at::Tensor());
  if (py::isinstance<py::str>(second)) {
    served->name = py::cast<std::string>(second);
  } else if (!second.is_none()) {
    served->pairs = py::cast<std::vector<std::pair<int64_t, int64_t>>>(second);
  }
  std::vector<at::Tensor> given{x};
  if (directions) given.push_back(*directions);
  served->describe(given, tensors.ptr());
  guard.serve(std::move(served), tensors.ptr());
}

}  // namespace

void bind_taylor(py::module_& m) {
  static PyTypeObject jets{PyVarObject_HEAD_INIT(nullptr, 0)};
  exact::name_node<JetNode>(jets, "DerivativesBackward");
  py::class_<Order>(m, "Order")
      .def(py::init([](int64_t lines, const decltype(Order::squares)& squares,
                       const std::vector<int64_t>& columns, const std::vector<int64_t>& shape) {
        return Order{lines, squares, columns, shape};
      }));
  py::class_<JetChain, std::shared_ptr<JetChain>>(m, "JetChain").def(py::init(&jet_chain));
  m.def("derivatives", [](const std::shared_ptr<JetChain>& chain, const at::Tensor& x,
                          const std::optional<at::Tensor>& lines, bool keeps) {
    return tuple_of(exact::without_gil(
        [&] { return derivatives(chain, x, lines.value_or(at::Tensor()), keeps); }));
  });
  m.def("serve_derivatives", &serve_derivatives);
}

}  // namespace manualbp
