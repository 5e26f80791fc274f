// What this library asks of Python, and tells it.
#pragma once
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/python_headers.h>
#include <torch/csrc/utils/pybind.h>

#include <functional>

#include "node.h"

namespace manualbp::exact {

// The type of our node as Python sees it, so that grad_fn says what it is.
template <typename Node>
void name_node(PyTypeObject& type, const char* name) {
  torch::autograd::_initFunctionPyTypeObject(type, name, nullptr, nullptr);  // as all nodes have
  torch::autograd::registerCppFunction(typeid(Node), &type);
}
void name_nodes();  // the chain's and the losses'

Held held(PyObject* object);

// What it returns, while other threads of Python may run.
template <typename Call>
auto without_gil(Call call) {
  pybind11::gil_scoped_release no_gil;
  return call();
}

// A Python function as a C++ one, which may be called, copied and freed without the GIL. It returns
// a list of tensors, None for an undefined one.
template <typename... Given>
std::function<Tensors(Given...)> python_function(const pybind11::object& function) {
  const Held alive = held(function.ptr());
  return [alive](Given... given) {
    pybind11::gil_scoped_acquire gil;
    const pybind11::handle called(alive->ptr(getPyInterpreter()));
    const pybind11::object found = called(given...);
    Tensors result;
    for (const pybind11::handle g : found) {
      result.push_back(g.is_none() ? at::Tensor() : pybind11::cast<at::Tensor>(g));
    }
    return result;
  };
}

}  // namespace manualbp::exact
