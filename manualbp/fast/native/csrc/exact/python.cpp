#include "python.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/python_variable.h>

#include "cost.h"
#include "exact.h"

namespace manualbp::exact {
namespace {

template <typename Values>
THPObjectPtr tuple_of(const Values& values) {
  THPObjectPtr found(PyTuple_New(static_cast<Py_ssize_t>(values.size())));
  for (size_t i = 0; i < values.size(); ++i) {
    PyTuple_SET_ITEM(found.get(), i, PyLong_FromLong(values[i]));
  }
  return found;
}

// function(*args), a list of gradients.
Tensors called(PyObject* function, std::vector<THPObjectPtr>& args) {
  THPObjectPtr packed(PyTuple_New(static_cast<Py_ssize_t>(args.size())));
  for (size_t i = 0; i < args.size(); ++i) PyTuple_SET_ITEM(packed.get(), i, args[i].release());
  THPObjectPtr found(PyObject_CallObject(function, packed));
  if (!found) throw python_error();
  return THPVariable_UnpackList(found);
}

THPObjectPtr object(const Held& held) {
  PyObject* found = held->ptr(getPyInterpreter());
  Py_INCREF(found);
  return THPObjectPtr(found);
}

}  // namespace

Tensors in_python(const Held& recursion, const Held& segment, const Wants& then, const Wants& now,
                  const std::vector<int>& hidden, const Tensors& grads, Tensors& kept) {
  pybind11::gil_scoped_acquire gil;
  std::vector<THPObjectPtr> args;
  args.push_back(object(segment));
  args.push_back(tuple_of(then));
  args.push_back(tuple_of(now));
  args.push_back(tuple_of(hidden));
  args.emplace_back(THPVariable_WrapList(kept));
  args.emplace_back(THPVariable_WrapList(grads));
  kept.clear();
  return called(object(recursion), args);
}

at::Tensor in_python(const Held& recursion, const Held& rule, const Tensors& grads,
                     const Tensors& kept) {
  pybind11::gil_scoped_acquire gil;
  std::vector<THPObjectPtr> args;
  args.push_back(object(rule));
  args.emplace_back(THPVariable_WrapList(grads));
  args.emplace_back(THPVariable_WrapList(kept));
  return called(object(recursion), args)[0];
}

void name_nodes() {
  static PyTypeObject chain{PyVarObject_HEAD_INIT(nullptr, 0)};
  static PyTypeObject cost{PyVarObject_HEAD_INIT(nullptr, 0)};
  name_node<ExactNode>(chain, "ChainBackward");
  name_node<CostNode>(cost, "CostBackward");
}

Held held(PyObject* object) {
  Py_INCREF(object);
  return std::make_shared<c10::SafePyObject>(object, getPyInterpreter());
}

}  // namespace manualbp::exact
