// What this library asks of Python, and tells it.
#pragma once
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/python_headers.h>

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

}  // namespace manualbp::exact
