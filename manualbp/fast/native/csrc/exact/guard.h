// The questions before a call, all in one: has nothing changed since the call that was served?
//
// A guard answers the common case alone. Where it says no, Python decides (modules/refusal.py,
// modules/plan.py, modules/stretch.py), with its reasons.
#pragma once
#include <torch/csrc/python_headers.h>

#include "cost.h"
#include "exact.h"

namespace manualbp::exact {

// What is looked at in every call, of the process: hooks on all modules, nn.Module and its
// __call__, whether training is distributed. Set once.
void set_surroundings(PyObject* hooks, PyObject* module, PyObject* call, PyObject* distributed,
                      PyObject* skipped);

// Whether no mode, transform, tracer, autocast or hook is at work; with ``graph`` also that
// autograd records.
bool quiet(bool graph);

// A tensor as it takes part: one of the same state is served by the same code.
struct State {
  explicit State(const at::Tensor& tensor);
  bool fits(PyObject* tensor, bool requires_grad) const;

  c10::DispatchKeySet keys;
  at::ScalarType dtype;
  at::Device device;
  std::vector<int64_t> sizes, strides;
  bool requires_grad;
};

// What runs, and for which inputs. The Python objects are borrowed: the guard holds them.
struct Served {
  virtual ~Served() = default;
  // What it returns in Python, a new reference: a tensor or a tuple of them.
  virtual PyObject* run(PyObject* const* inputs) const = 0;
  // Whether it runs in this way: of two, unless there are others.
  virtual bool in_way(PyObject* way) const { return (way == Py_True) == second; }
  bool fits(PyObject* const* inputs, size_t count) const;

  // Which inputs, and the tensors of a list, as they are now.
  void describe(const std::vector<at::Tensor>& given, PyObject* list);

  bool second = false;               // way of two: x + o instead of o; C without a graph
  bool fixed = false;                // requires_grad of the tensors, too, must be as it was
  std::vector<State> inputs;         // requires_grad must be as it was
  std::vector<PyObject*> tensors;    // that take part beside the inputs; None is none
  std::vector<State> tensor_states;  // of those that are there
};

struct ServedChain : Served {
  PyObject* run(PyObject* const* inputs) const override;
  std::shared_ptr<const Chain> chain;
  PyObject* segment;
};

struct ServedCost : Served {
  PyObject* run(PyObject* const* inputs) const override;
  Loss loss;  // without its weights, which are tensors[0] and tensors[1]
  PyObject* rule;
};

class Guard {
 public:
  // children: a tuple of modules; or a dict of which every key, too, must stay.
  // dicts: every value and key must stay the same object; (dict, keys) looks at these keys alone,
  // which must stay or stay away. empty: dicts that must be empty. classes: (class, its forward,
  // its __call__). The last three are lists.
  Guard(PyObject* children, PyObject* dicts, PyObject* empty, PyObject* classes);
  Guard(const Guard&) = delete;
  ~Guard() { Py_XDECREF(held_); }

  // ``children``: a dict of them or a tuple, as they are now.
  bool holds(PyObject* children, bool graph) const;
  // What fits in this way, or nullptr; nor does anything where the guard does not hold.
  std::shared_ptr<const Served> find(PyObject* children, PyObject* way, PyObject* const* inputs,
                                     size_t count) const;
  void serve(std::shared_ptr<Served> served, PyObject* owned);

  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  struct Snapshot {
    PyObject* dict;
    std::vector<std::pair<PyObject*, PyObject*>> items;
    bool whole;  // else these items alone; nullptr for one that is not there
  };
  struct Class {
    PyObject *type, *forward, *call;
  };
  static std::vector<std::pair<PyObject*, PyObject*>> items_of(PyObject* dict);
  static bool is_skipped(PyObject* key);  // the plan itself, which a module's dict holds
  bool same(const Snapshot& snapshot) const;
  bool same_children(PyObject* children) const;
  void hold(PyObject* object);

  PyObject* held_;  // a list with all that is borrowed below
  struct Child {
    PyObject* key;  // nullptr where it may have any name
    PyObject* module;
    PyTypeObject* type;
  };
  std::vector<Child> children_;
  std::vector<Snapshot> dicts_;
  std::vector<PyObject*> empty_;
  std::vector<Class> classes_;
  std::vector<std::shared_ptr<Served>> served_;
};

}  // namespace manualbp::exact
