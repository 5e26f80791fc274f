// What this library asks of Python, and tells it.
#pragma once
#include <torch/csrc/python_headers.h>

#include "node.h"

namespace manualbp::exact {

// The types of our nodes, so that grad_fn says what it is.
void name_nodes();

Held held(PyObject* object);

}  // namespace manualbp::exact
