// What this library asks of Python, and tells it.
#pragma once
#include <torch/csrc/python_headers.h>

#include "node.h"

namespace manualbp::exact {

// The types of our nodes, so that grad_fn says what it is.
void name_nodes();

// chain.py's ``backward_of`` and cost.py's: where a backward pass is recorded or transformed.
void set_recursion(PyObject* chain, PyObject* cost);

Held held(PyObject* object);

}  // namespace manualbp::exact
