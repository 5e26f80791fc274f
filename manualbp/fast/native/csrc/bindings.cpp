// What Python sees of this library; of the tiles in tiles/bind.cpp. Other files know no pybind11
// classes.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "descent.h"
#include "exact/guard.h"
#include "exact/python.h"
#include "taylor/bind.h"
#include "tiles/bind.h"

namespace py = pybind11;

using namespace manualbp::exact;

namespace {

using Row = std::vector<std::tuple<std::string, bool, bool, double, double>>;

// A row of (key, flag, flag, p, q): ("linear", h_column_major, w_column_major, 0, 0), or
// (activation, in_place, False, p, q).
std::shared_ptr<Chain> chain_of(const Row& row, const py::object& recursion, int64_t over_from) {
  auto found = std::make_shared<Chain>();
  found->recursion = held(recursion.ptr());
  for (const auto& [key, first, second, p, q] : row) {
    Layer layer;
    layer.linear = key == "linear";
    if (layer.linear) {
      layer.h_column_major = first;
      layer.w_column_major = second;
    } else {
      layer.f = activation_of(key, p, q);
      layer.in_place = first;
      layer.over_from = over_from;
    }
    found->layers.push_back(layer);
  }
  return found;
}

at::Tensor apply(const std::shared_ptr<Chain>& chain, const py::object& segment,
                 const py::list& parameters, const at::Tensor& x, bool residual) {
  Tensors tensors;
  for (const auto& t : parameters) {
    tensors.push_back(t.is_none() ? at::Tensor() : THPVariable_Unpack(t.ptr()));
  }
  const Held alive = held(segment.ptr());
  py::gil_scoped_release no_gil;
  return manualbp::exact::run(chain, alive, tensors, x, residual);
}

void serve_chain(Guard& guard, const std::shared_ptr<Chain>& chain, const py::object& segment,
                 const py::list& parameters, const at::Tensor& x, bool residual) {
  auto served = std::make_shared<ServedChain>();
  served->chain = chain;
  served->segment = segment.ptr();
  served->second = residual;
  served->describe({x}, parameters.ptr());
  guard.serve(std::move(served), segment.ptr());
}

at::Tensor apply_cost(const Loss& loss, const py::object& rule, const at::Tensor& o,
                      const at::Tensor& y) {
  const Held alive = held(rule.ptr());
  py::gil_scoped_release no_gil;
  return cost(loss, alive, o, y);
}

void serve_cost(Guard& guard, const Loss& loss, const py::object& rule, const py::list& weights,
                const at::Tensor& o, const at::Tensor& y) {
  auto served = std::make_shared<ServedCost>();
  served->loss = loss;
  served->loss.weight.reset();
  served->loss.pos_weight.reset();
  served->fixed = true;
  served->rule = rule.ptr();
  served->describe({o, y}, weights.ptr());
  guard.serve(std::move(served), rule.ptr());
}

py::object guarded(const Guard& guard, const py::handle& children, const py::handle& way,
                   const py::args& inputs) {
  PyObject* const* given = reinterpret_cast<PyTupleObject*>(inputs.ptr())->ob_item;
  const auto found = guard.find(children.ptr(), way.ptr(), given, inputs.size());
  if (!found) return py::none();
  auto result = py::reinterpret_steal<py::object>(found->run(given));
  if (!result) throw python_error();
  return result;
}

// Python's garbage collector looks into a guard, which holds modules and parameters.
void collectable(PyHeapTypeObject* heap) {
  auto* type = &heap->ht_type;
  type->tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) -> int {
    Py_VISIT(Py_TYPE(self));
    auto* instance = reinterpret_cast<py::detail::instance*>(self);
    if (!instance->simple_holder_constructed) return 0;
    return py::cast<Guard&>(py::handle(self)).traverse(visit, arg);
  };
  type->tp_clear = [](PyObject* self) -> int {
    py::cast<Guard&>(py::handle(self)).clear();
    return 0;
  };
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  name_nodes();
  manualbp::bind_tiles(m);
  manualbp::bind_taylor(m);
  m.def("descend", &manualbp::descend, py::arg("parameters"), py::arg("epsilon"),
        py::call_guard<py::gil_scoped_release>());

  py::class_<Chain, std::shared_ptr<Chain>>(m, "Chain")
      .def(py::init(&chain_of))
      .def("apply", torch::wrap_pybind_function(apply));
  py::class_<Loss>(m, "Loss")
      .def(py::init([](const std::string& name, int64_t reduction, double p, int64_t ignore_index,
                       const std::optional<at::Tensor>& weight,
                       const std::optional<at::Tensor>& pos_weight, const py::object& recursion) {
        return Loss{errors_of(name),
                    reduction,
                    p,
                    ignore_index,
                    weight.value_or(at::Tensor()),
                    pos_weight.value_or(at::Tensor()),
                    held(recursion.ptr())};
      }))
      .def("apply", torch::wrap_pybind_function(apply_cost));

  py::class_<Guard>(m, "Guard", py::custom_type_setup(collectable))
      .def(py::init([](const py::object& children, const py::list& dicts, const py::list& empty,
                       const py::list& classes) {
        return std::make_unique<Guard>(children.ptr(), dicts.ptr(), empty.ptr(), classes.ptr());
      }))
      .def(
          "holds",
          [](const Guard& guard, const py::handle& children, bool graph) {
            return guard.holds(children.ptr(), graph);
          },
          py::arg("children"), py::arg("graph") = true)
      .def("run", torch::wrap_pybind_function(guarded))
      .def("serve_chain", torch::wrap_pybind_function(serve_chain))
      .def("serve_cost", torch::wrap_pybind_function(serve_cost));

  m.def("set_surroundings",
        [](const py::tuple& hooks, const py::object& module, const py::object& call,
           const py::object& distributed, const py::object& skipped) {
          set_surroundings(hooks.ptr(), module.ptr(), call.ptr(), distributed.ptr(), skipped.ptr());
        });
}
