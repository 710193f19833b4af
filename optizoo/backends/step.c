/* A planned step: look at everything that it stands on, as it is now, and make it; or say that it is not known.

   Tensors, dicts and numbers are read through functions that the caller names or that Python's stable ABI has, declared
   here so that no header is needed. The caller holds the GIL and keeps all objects alive whose addresses stand in the
   tables. Every table is made of 64-bit words. */

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct { /* as the reader has made sure of; the real one is opaque in the stable ABI of newer Pythons */
    ptrdiff_t references;
    void *class;
} PyObject;
PyObject *PyObject_GetAttr(PyObject *object, PyObject *name);
int PyDict_Next(PyObject *dict, ptrdiff_t *position, PyObject **key, PyObject **value);
ptrdiff_t PyDict_Size(PyObject *dict);
ptrdiff_t PyList_Size(PyObject *list);
PyObject *PyList_GetItem(PyObject *list, ptrdiff_t index);
ptrdiff_t PyTuple_Size(PyObject *tuple);
PyObject *PyTuple_GetItem(PyObject *tuple, ptrdiff_t index);
double PyFloat_AsDouble(PyObject *number);
PyObject *PyErr_Occurred(void);
void PyErr_Clear(void);
void Py_DecRef(PyObject *object);
void *PyEval_SaveThread(void);
void PyEval_RestoreThread(void *state);

/* Tensors ---------------------------------------------------------------------------------------------------------- */

typedef struct { /* DLTensor of DLPack 1 */
    char *data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} tensor_t;
typedef int (*read_t)(void *object, tensor_t *out);

typedef struct { /* torch's stable C functions, which take the address of an at::Tensor; 0 is success */
    int64_t offset; /* of the at::Tensor in a Python tensor */
    int32_t (*layout)(void *, int32_t *);
    int32_t (*data)(void *, void **);
    int32_t (*dimensions)(void *, int64_t *);
    int32_t (*sizes)(void *, int64_t **);
    int32_t (*strides)(void *, int64_t **);
    int32_t (*dtype)(void *, int32_t *);
    int32_t (*device)(void *, int32_t *);
    unsigned char (*negated)(void *), (*zero)(void *); /* whether the memory holds the opposite, or is not there */
} torch_t;
static torch_t torch;

void optizoo_bind(const torch_t *functions) { torch = *functions; }

/* Read a tensor as DLPack's exchange API does, at a third of its price. */
int optizoo_read(void *object, tensor_t *out) {
    void *tensor = (char *)object + torch.offset, *data;
    int32_t layout, dtype;
    int64_t dimensions;
    if (torch.layout(tensor, &layout) || layout != 0 || torch.data(tensor, &data) ||
        torch.dimensions(tensor, &dimensions) || torch.sizes(tensor, &out->shape) ||
        torch.strides(tensor, &out->strides) || torch.dtype(tensor, &dtype) ||
        torch.device(tensor, &out->device_type) || torch.negated(tensor) || torch.zero(tensor))
        return -1;
    out->data = data;
    out->ndim = (int32_t)dimensions;
    out->code = (uint8_t)dtype;
    out->bits = 0;
    out->byte_offset = 0;
    return 0;
}

enum { CLASS, DEVICE, DTYPE, DIMENSIONS, SIZES }; /* places in a layout; sizes and strides alternate from SIZES on */

static int64_t class_of(PyObject *object) { return (int64_t)(intptr_t)object->class; }

/* Write class, device, type, shape and strides of a tensor: 4 + 2 ndim words. Return 0, or -1 if it cannot be read. */
int optizoo_describe(read_t read, PyObject *object, int64_t *layout) {
    tensor_t tensor;
    if (read(object, &tensor) != 0) {
        PyErr_Clear();
        return -1;
    }
    layout[CLASS] = class_of(object);
    layout[DEVICE] = tensor.device_type;
    layout[DTYPE] = tensor.code << 8 | tensor.bits;
    layout[DIMENSIONS] = tensor.ndim;
    for (int i = 0; i < tensor.ndim; i++) {
        layout[SIZES + 2 * i] = tensor.shape[i];
        layout[SIZES + 2 * i + 1] = tensor.strides[i];
    }
    return 0;
}

/* Write the address of a tensor and return 1, or 0 if its class or layout is another one now. */
static int address(read_t read, PyObject *object, const int64_t *layout, void **out) {
    tensor_t tensor;
    if (class_of(object) != layout[CLASS] || read(object, &tensor) != 0)
        return 0;
    int64_t difference = layout[DEVICE] ^ tensor.device_type;
    difference |= layout[DTYPE] ^ (tensor.code << 8 | tensor.bits);
    difference |= layout[DIMENSIONS] ^ tensor.ndim;
    for (int i = 0; !difference && i < tensor.ndim; i++)
        difference |= (layout[SIZES + 2 * i] ^ tensor.shape[i]) | (layout[SIZES + 2 * i + 1] ^ tensor.strides[i]);
    *out = tensor.data + tensor.byte_offset;
    return difference == 0;
}

/* Dicts ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    PyObject *key, *value; /* as they were */
    int64_t kind;
    int64_t place;         /* TENSOR: column of the pointers; COUNTER, RUNNING, NUMBER: index; TUPLE: count of cells */
    const void *more;      /* of a tensor its layout; NUMBER: its class; TUPLE: its cells, items without keys */
} item_t;
enum { FREE, PINNED, TENSOR, COUNTER, RUNNING, NUMBER, TUPLE };

/* Read the numbers of a value, or see that it is the same object. */
static int same_value(const item_t *item, PyObject *value, double *numbers) {
    if (item->kind == FREE)
        return 1;
    if (item->kind == NUMBER) {
        if (class_of(value) != (int64_t)(intptr_t)item->more)
            return 0;
        numbers[item->place] = PyFloat_AsDouble(value);
        return numbers[item->place] != -1.0 || !PyErr_Occurred();
    }
    if (item->kind != TUPLE)
        return value == item->value;
    const item_t *cell = item->more;
    if (class_of(value) != class_of(item->value) || PyTuple_Size(value) != item->place)
        return 0;
    for (int64_t i = 0; i < item->place; i++)
        if (!same_value(cell + i, PyTuple_GetItem(value, i), numbers))
            return 0;
    return 1;
}

static int same_items(PyObject *dict, int64_t count, const item_t *items, double *numbers) {
    ptrdiff_t position = 0;
    PyObject *key, *value;
    if (PyDict_Size(dict) != count)
        return 0;
    for (int64_t i = 0; i < count; i++)
        if (!PyDict_Next(dict, &position, &key, &value) || key != items[i].key ||
            !same_value(items + i, value, numbers))
            return 0;
    return 1;
}

/* Numbers ---------------------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t word;
    union {
        int64_t place;
        double number;
    } operand;
} instruction_t;
enum { LOAD, CONSTANT, ADD, SUB, MUL, DIV, POW, NEG, ABS, ROUND, LT, LE, GT, GE, EQ, NE, REQUIRE, STORE, KEEP };

typedef struct { /* what the tensors of one bucket keep: the number of updates made, or a number that runs beside it */
    double known, coming, before; /* what its tensors hold, what a step makes of it, what the last step has found */
    int64_t wide;                 /* whether its tensors are float64, or else float32 */
} number_t;

/* Return whether the tensors can take what is coming: torch refuses what their type cannot hold. */
static int fits(const number_t *number) { return fabs(number->coming) <= (number->wide ? DBL_MAX : FLT_MAX); }

typedef struct { /* what the tensors of one bucket have in common */
    const double *numbers; /* the step, the numbers that run beside it, and the options of its group */
    double *scalars;       /* its row of the launch */
    int64_t length;
    const instruction_t *code; /* NULL: the caller has written the scalars, and what is coming */
    int64_t kept;
    number_t *number; /* the first is the number of updates made */
} row_t;

/* Evaluate the formulas of a row. Return 0 where a condition does not hold, or where Python would raise or leave the
   real numbers: it does wherever a result here is not finite. */
int optizoo_evaluate(const row_t *row, double *numbers) {
    double stack[32], *top = stack - 1;
    for (int64_t i = 0; i < row->kept; i++)
        numbers[i] = row->number[i].known;
    numbers[0] += 1;
    for (const instruction_t *at = row->code; at < row->code + row->length; at++) {
        switch (at->word) {
        case LOAD: *++top = numbers[at->operand.place]; break;
        case CONSTANT: *++top = at->operand.number; break;
        case ADD: top--; *top += top[1]; break;
        case SUB: top--; *top -= top[1]; break;
        case MUL: top--; *top *= top[1]; break;
        case DIV: top--; *top /= top[1]; break;
        case POW: top--; *top = pow(*top, top[1]); break;
        case NEG: *top = -*top; break;
        case ABS: *top = fabs(*top); break;
        case ROUND: *top = (float)*top; break;
        case LT: top--; *top = *top < top[1]; break;
        case LE: top--; *top = *top <= top[1]; break;
        case GT: top--; *top = *top > top[1]; break;
        case GE: top--; *top = *top >= top[1]; break;
        case EQ: top--; *top = *top == top[1]; break;
        case NE: top--; *top = *top != top[1]; break;
        case REQUIRE:
            if ((*top-- != 0) != at->operand.place)
                return 0;
            continue;
        case KEEP: row->number[at->operand.place].coming = *top--; continue;
        default: row->scalars[at->operand.place] = *top--; continue;
        }
        if (!isfinite(*top))
            return 0;
    }
    return 1;
}

/* The step --------------------------------------------------------------------------------------------------------- */

typedef struct { /* a parameter */
    PyObject *param;
    void **pointers; /* of its launch, at its place in the first column; NULL: it has no gradient and is left alone */
    int64_t stride;  /* from one column to the next: the number of tensors in the launch */
    const int64_t *param_layout, *grad_layout;
    void *body; /* the at::Tensor that it held, where its version is counted here */
    int64_t items;
    PyObject *store; /* its state, or NULL */
    const item_t *item;
} entry_t;

typedef struct { /* a tensor of one number; no two share their memory */
    void *data;
    const number_t *number; /* what it holds */
} cell_t;

typedef struct {
    PyObject *group, *list;
    int64_t options, params;
    const item_t *option;
    double *numbers;
} group_t;

typedef void (*kernel_t)(
    int64_t tensors, const int64_t *ends, void *const *pointers, const double *scalars, const int32_t *rows,
    int64_t shares, void *parallel
);
typedef struct {
    kernel_t run; /* NULL: the caller launches */
    int64_t tensors;
    const int64_t *ends;
    void *const *pointers;
    const double *scalars;
    const int32_t *rows;
} launch_t;

typedef struct {
    read_t read;
    PyObject *grad_name, *none, *gradient_flag, *off; /* the name `grad`, None, the name `requires_grad`, False */
    PyObject *list; /* optimizer.param_groups */
    int64_t groups;
    const group_t *group;
    PyObject *state; /* optimizer.state */
    int64_t stores;
    const item_t *stored;
    const entry_t *entry; /* one for every parameter of every group */
    int64_t rows;
    const row_t *row;
    int64_t launches;
    const launch_t *launch;
    int64_t grain; /* elements below which a thread of its own does not pay */
    void (*bump)(void *); /* counts the version of an at::Tensor; NULL: the caller counts */
    PyObject **grads; /* room for the gradients, each with a reference from gather() to release() */
    int64_t cells;
    const cell_t *cell;
    int64_t held;
} watch_t;

void optizoo_release(watch_t *watch) {
    while (watch->held)
        Py_DecRef(watch->grads[--watch->held]);
}

/* Return whether a state is as it was: a tensor of one number where it was, with what is known, without autograd. */
static int is_known(const watch_t *watch, const entry_t *entry, const item_t *item) {
    if (item->kind == TENSOR)
        return address(watch->read, item->value, item->more, entry->pointers + item->place * entry->stride);
    if (item->kind != COUNTER && item->kind != RUNNING)
        return 1;
    const cell_t *cell = watch->cell + item->place;
    void *data;
    if (!address(watch->read, item->value, item->more, &data) || data != cell->data)
        return 0;
    double value = cell->number->wide ? *(double *)data : *(float *)data;
    if (memcmp(&value, &cell->number->known, sizeof value) != 0)
        return 0;
    if (item->kind == COUNTER)
        return 1;
    PyObject *flag = PyObject_GetAttr(item->value, watch->gradient_flag);
    Py_DecRef(flag);
    return flag == watch->off;
}

static int look(watch_t *watch) {
    const entry_t *entry = watch->entry;
    if (PyList_Size(watch->list) != watch->groups || !same_items(watch->state, watch->stores, watch->stored, NULL))
        return 0;
    for (const group_t *group = watch->group; group < watch->group + watch->groups; group++) {
        if (PyList_GetItem(watch->list, group - watch->group) != group->group)
            return 0;
        if (!same_items(group->group, group->options, group->option, group->numbers))
            return 0;
        if (PyList_Size(group->list) != group->params)
            return 0;
        for (int64_t i = 0; i < group->params; i++, entry++) {
            if (PyList_GetItem(group->list, i) != entry->param)
                return 0;
            PyObject *grad = PyObject_GetAttr(entry->param, watch->grad_name);
            if (!grad)
                return 0;
            watch->grads[watch->held++] = grad;
            if ((grad == watch->none) != !entry->pointers)
                return 0;
            if (!entry->pointers)
                continue;
            if (!address(watch->read, entry->param, entry->param_layout, entry->pointers) ||
                !address(watch->read, grad, entry->grad_layout, entry->pointers + entry->stride))
                return 0;
            if (entry->body && *(void **)((char *)entry->param + torch.offset) != entry->body)
                return 0;
            if (entry->store && !same_items(entry->store, entry->items, entry->item, NULL))
                return 0;
            for (const item_t *item = entry->item; item < entry->item + entry->items; item++)
                if (!is_known(watch, entry, item))
                    return 0;
        }
    }
    for (const row_t *row = watch->row; row < watch->row + watch->rows; row++) {
        if (row->code && !optizoo_evaluate(row, (double *)row->numbers))
            return 0;
        row->number->coming = row->number->known + 1;
        for (int64_t i = 0; i < row->kept; i++)
            if (!fits(row->number + i))
                return 0;
    }
    return 1;
}

/* Return 1 if all is as it was: pointers and scalars are brought up to date, the gradients are held, and every counter
   and running number has its new value. Else 0, with nothing touched. */
int optizoo_gather(watch_t *watch) {
    watch->held = 0;
    if (!look(watch)) {
        optizoo_release(watch);
        PyErr_Clear();
        return 0;
    }
    for (const cell_t *cell = watch->cell; cell < watch->cell + watch->cells; cell++)
        if (cell->number->wide)
            *(double *)cell->data = cell->number->coming;
        else
            *(float *)cell->data = (float)cell->number->coming;
    for (const row_t *row = watch->row; row < watch->row + watch->rows; row++)
        for (number_t *number = row->number; number < row->number + row->kept; number++) {
            number->before = number->known;
            number->known = number->wide ? number->coming : (float)number->coming;
        }
    return 1;
}

/* Make the whole step and return 1, or return 0 with nothing touched. */
int optizoo_step(watch_t *watch, int64_t threads, void *parallel) {
    int64_t elements = 0;
    if (!optizoo_gather(watch))
        return 0;
    for (const launch_t *launch = watch->launch; launch < watch->launch + watch->launches; launch++)
        elements += launch->ends[launch->tensors - 1];
    void *state = elements > watch->grain ? PyEval_SaveThread() : NULL; /* a small step is done before others wake up */
    for (const launch_t *launch = watch->launch; launch < watch->launch + watch->launches; launch++) {
        int64_t shares = (launch->ends[launch->tensors - 1] + watch->grain - 1) / watch->grain;
        launch->run(
            launch->tensors, launch->ends, launch->pointers, launch->scalars, launch->rows,
            shares < threads ? shares : threads, parallel
        );
    }
    if (state)
        PyEval_RestoreThread(state);
    const entry_t *entry = watch->entry;
    if (watch->bump)
        for (const group_t *group = watch->group; group < watch->group + watch->groups; group++)
            for (int64_t i = 0; i < group->params; i++, entry++)
                if (entry->body)
                    watch->bump((char *)entry->param + torch.offset);
    optizoo_release(watch);
    return 1;
}
