"""Changes to a graph: what stays in it is not copied."""

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from exporter.quantization.graph import Graph, node


def small() -> ModelProto:
    """Looks rows up in a table, and multiplies them by a matrix."""
    tensors = {"table": np.ones((5, 4)), "matrix": np.ones((4, 3)), "shape": np.ones(2)}
    nodes = [node("Gather", ["table", "ids"], "rows"), node("MatMul", ["rows", "matrix"], "y")]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(t.astype(np.float32), name) for name, t in tensors.items()],
    )
    return helper.make_model(graph)


def test_tensors_that_stay_are_not_copied_and_unread_ones_are_dropped() -> None:
    """protobuf cannot copy a tensor above 2 GiB, which the table of words of an 8B model is."""
    model = small()
    table = model.graph.initializer[0]
    graph = Graph(model)
    (linear,) = graph.linears()
    unread = graph.add_tensor("unread", [1.0], np.float32)
    halves = graph.add_tensor("halves", graph.array(linear.weight) / 2, np.float32)
    graph.replace(linear.result, [node("MatMul", [linear.source, halves], linear.result)])
    graph.finish()
    kept = {tensor.name: tensor for tensor in model.graph.initializer}
    assert [*kept] == ["table", "halves"]
    assert kept["table"] is table
    assert unread not in kept
    np.testing.assert_array_equal(numpy_helper.to_array(kept["halves"]), np.full((4, 3), 0.5))
