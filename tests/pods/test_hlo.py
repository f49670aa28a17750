"""What is read of compiled programs, against XLA's text and known numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p3d_jax.pods import cost, hlo, loops

# As libtpu prints it: no trip count, a group of a mesh, memories and tiles.
LOOP = """HloModule jit_f, is_scheduled=true, num_partitions=4

%body (p.1: (s32[], f32[8,100])) -> (s32[], f32[8,100]) {
  %p.1 = (s32[]{:T(128)}, /*index=1*/f32[8,100]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %x.1 = f32[8,100]{1,0:T(8,128)} get-tuple-element(%p.1), index=1
  %two.1 = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i.1, %two.1)
  %sum = f32[8,100]{1,0:T(8,128)} all-reduce(%x.1), channel_id=1, \
replica_groups=mesh['a'=2,'b'=2] {'b'}, use_global_device_ids=true
  ROOT %out = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) tuple(%next, %sum)
}

%test (p.2: (s32[], f32[8,100])) -> pred[] {
  %p.2 = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %limit = s32[]{:T(128)} constant(LIMIT)
  ROOT %lt = pred[]{:T(512)} compare(%i.2, %limit), direction=DIRECTION
}

ENTRY %main (a: f32[8,100]) -> f32[8,100] {
  %a = f32[8,100]{1,0:T(8,128)} parameter(0), metadata={op_name="a (b)"}
  %zero = s32[]{:T(128)} constant(1)
  %start = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) while(%start), \
condition=%test, body=%body
  ROOT %r = f32[8,100]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def loop(limit=11, direction="LT"):
  text = LOOP.replace("LIMIT", str(limit)).replace("DIRECTION", direction)
  return hlo.parse(text)


def compiled(function, *shapes, dtype=np.float32):
  """The program of a function of arrays of those shapes."""
  arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
  return jax.jit(function).lower(*arrays).compile()


def flop(function, *shapes):
  made = compiled(function, *shapes)
  return cost.cost(hlo.parse(made.as_text())).flop


@pytest.mark.parametrize(
  ("shape", "size", "padded", "space"),
  [
    # 5 rows of 100 lie in one tile of 8 x 128; 2 bytes each.
    pytest.param(
      "bf16[5,100]{1,0:T(8,128)(2,1)S(1)}", 1000, 2048, 1, id="tile"
    ),
    # Minor to major: dimension 0 is the minor one.
    pytest.param(
      "f32[5,100]{0,1:T(8,128)}", 2000, 4 * 104 * 128, 0, id="order"
    ),
    pytest.param("s32[]{:T(128)}", 4, 512, 0, id="scalar"),
    pytest.param("pred[3]", 3, 3, 0, id="no layout"),
    pytest.param("f8e4m3fn[4,4]{1,0}", 16, 16, 0, id="eight bits"),
    pytest.param("token[]", 0, 0, 0, id="token"),
  ],
)
def test_an_array_takes_whole_tiles(shape, size, padded, space):
  (array,) = hlo.arrays(shape)
  assert (array.size, array.padded, array.space) == (size, padded, space)


def test_a_program_is_read():
  program = loop()
  assert program.devices == 4
  assert program.entry.name == "main"
  assert program.entry.root.name == "r"
  one = program.entry.instructions["loop"]
  assert one.opcode == "while"
  assert [a.dims for a in one.arrays] == [(), (8, 100)]
  assert program.called(one, "body").root.operands == ("next", "sum")


def test_what_is_no_program_is_refused():
  with pytest.raises(ValueError, match="not a compiled program.*'module @jit"):
    hlo.parse("module @jit_f {}")


@pytest.mark.parametrize(
  ("limit", "direction", "turns"),
  [
    pytest.param(11, "LT", 5, id="1 3 5 7 9"),
    pytest.param(11, "LE", 6, id="and 11"),
    pytest.param(10, "LT", 5, id="past the limit"),
    pytest.param(1, "LT", 0, id="none"),
    pytest.param(11, "NE", 5, id="until equal"),
    pytest.param(11, "GT", None, id="away from it"),
  ],
)
def test_the_turns_of_a_loop_without_a_note(limit, direction, turns):
  """From 1 in twos; each turn sends 8 x 100 floats to one other device."""
  program = loop(limit, direction)
  one = program.entry.instructions["loop"]
  assert loops.turns(program, one, program.entry) == turns
  found = cost.cost(program)
  assert found.loops == (turns,)
  # Half of the sum there, half of it back: 2 n (k - 1) / k with k = 2.
  times = 1 if turns is None else turns
  assert sum(one.sent for one in found.collectives) == times * 8 * 100 * 4


@pytest.mark.parametrize(
  ("groups", "size"),
  [
    ("{{0,2},{1,3}}", 2),
    ("{}", 8),
    ("[2,4]<=[8]", 4),
    ("[4,2]<=[2,4]T(1,0)", 2),
    ("mesh['x'=2,'y'=4] {'y'}", 4),
    ("mesh['x'=2,'y'=4] {'x','y'}", 8),
    ("mesh['x'=8] {'x':(2)4}", 4),
  ],
  ids=str,
)
def test_how_many_devices_take_part(groups, size):
  text = (
    f"channel_id=1, replica_groups={groups}, metadata={{op_name=\"s['a']\"}}"
  )
  one = hlo.Instruction("a", (), "all-reduce", (), text)
  assert cost.group_size(one, devices=8) == size


@pytest.mark.parametrize(
  ("kind", "sent"),
  [
    ("all-reduce", 2 * 3 / 4),
    ("all-gather", 3 / 4),
    ("reduce-scatter", 3 / 4),
    ("collective-permute", 1),
  ],
)
def test_what_a_device_sends(kind, sent):
  """A ring of 4: n/4 to the neighbour, 3 times for each half of the work."""
  assert cost.Collective(kind, 1000, 4, times=2).sent == 2 * 1000 * sent


def test_an_all_gather_is_of_the_whole():
  """Each of 4 devices brings 8 x 100 floats; what is sent is 3 of those."""
  text = LOOP.replace("all-reduce(", "all-gather(").replace("'b'=2", "'b'=4")
  text = text.replace("LIMIT", "2").replace("DIRECTION", "LT")
  program = hlo.parse(text.replace("num_partitions=4", "num_partitions=8"))
  (one,) = cost.cost(program).collectives
  assert (one.bytes, one.group, one.sent) == (4 * 3200, 4, 3 * 3200)


def scanned(x, w, turns, inner):
  """x through `turns` times `inner` products with w."""

  def layer(x, _):
    return jnp.tanh(x @ w), None

  def block(x, _):
    return jax.lax.scan(layer, x, None, length=inner)[0] * 2, None

  return jax.lax.scan(block, x, None, length=turns)[0].sum()


PRODUCT = 2 * 32 * 16 * 16  # FLOP of (32, 16) @ (16, 16)


def test_a_loop_counts_as_often_as_it_turns():
  made = compiled(lambda x, w: scanned(x, w, 5, 3), (32, 16), (16, 16))
  program = hlo.parse(made.as_text())
  found = cost.cost(program)
  assert found.flop == 15 * PRODUCT
  assert sorted(found.loops) == [3, 5]
  assert cost.cost(program, once=True).flop == PRODUCT
  # XLA's own analysis has the body once, with 32 x 16 sums and doublings.
  assert made.cost_analysis()["flops"] < 1.2 * PRODUCT


def test_the_gradient_of_nested_loops():
  """Three products a layer: the value's, and both derivatives'."""
  found = flop(
    jax.grad(lambda w, x: scanned(x, w, 5, 3), argnums=(0, 1)),
    (16, 16),
    (32, 16),
  )
  assert found == 3 * 15 * PRODUCT


def test_recomputing_a_layer_is_a_fourth_product():
  def loss(w, x):
    def layer(x, _):
      return jnp.tanh(jnp.tanh(x @ w) @ w), None

    return jax.lax.scan(jax.checkpoint(layer), x, None, length=7)[0].sum()

  both = flop(jax.grad(loss, argnums=(0, 1)), (16, 16), (32, 16))
  # Of the two products of a turn, both are computed again but for the second,
  # of which tanh's derivative needs the value: it is recomputed as well.
  assert both == (3 + 1) * 2 * 7 * PRODUCT


CONVOLUTIONS = {
  "strided, padded": {
    "window_strides": (1, 2, 2),
    "padding": [(0, 0), (3, 3), (3, 3)],
  },
  "in time": {
    "window_strides": (1, 1, 1),
    "padding": [(1, 1), (0, 0), (0, 0)],
  },
  "uneven": {
    "window_strides": (2, 1, 3),
    "padding": [(2, 0), (0, 1), (1, 1)],
  },
  "dilated": {
    "window_strides": (1, 1, 1),
    "padding": [(1, 1), (2, 2), (0, 0)],
    "rhs_dilation": (1, 2, 1),
    "lhs_dilation": (1, 1, 2),
  },
}
CLIPS, KERNEL = (2, 5, 9, 8, 3), (3, 3, 3, 3, 4)


def convolution(options):
  return lambda x, k: jax.lax.conv_general_dilated(
    x, k, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"), **options
  )


def multiply_adds(options):
  """A convolution of ones sums one for each product that is not with a zero."""
  ones = convolution(options)(jnp.ones(CLIPS), jnp.ones(KERNEL))
  return int(ones.sum())


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_counts_what_is_not_padding(name):
  options = CONVOLUTIONS[name]
  found = flop(convolution(options), CLIPS, KERNEL)
  assert found == 2 * multiply_adds(options)


GROUPED = """HloModule jit_f, num_partitions=1

ENTRY %main (x: f32[2,8,3], k: f32[3,3,4]) -> f32[1,6,4] {
  %x = f32[2,8,3]{2,1,0} parameter(0)
  %k = f32[3,3,4]{2,1,0} parameter(1)
  ROOT %c = f32[1,6,4]{2,1,0} convolution(%x, %k), window={size=3}, \
dim_labels=b0f_0io->b0f, batch_group_count=2
}
"""


def test_a_convolution_in_two_groups_of_the_batch():
  """6 places, 3 taps, 3 channels, and 4 features of one clip each."""
  assert cost.cost(hlo.parse(GROUPED)).flop == 2 * 6 * 3 * 3 * 4


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_gradients_of_a_convolution(name):
  """Each product of the value comes back in both derivatives, once."""
  options = CONVOLUTIONS[name]

  def loss(x, k):
    return (convolution(options)(x, k) ** 2).sum()

  found = flop(jax.grad(loss, argnums=(0, 1)), CLIPS, KERNEL)
  assert found == 3 * 2 * multiply_adds(options)


def test_bytes_of_a_chain():
  """Two sorts cannot be fused: each reads and writes 1,000 floats."""
  made = compiled(lambda x: jnp.sort(jnp.sort(x).reshape(10, 100)), (1000,))
  found = cost.cost(hlo.parse(made.as_text()))
  assert found.bytes == 2 * 2 * 4000


def test_a_slice_of_a_long_array_is_what_a_turn_reads():
  """50 turns read a row of 1,000 floats each, not the whole 50 x 1,000."""

  def total(rows):
    def add(sum_, row):
      return jnp.sort(sum_ + row), None

    return jax.lax.scan(add, jnp.zeros(1000), rows)[0]

  made = compiled(total, (50, 1000))
  found = cost.cost(hlo.parse(made.as_text()))
  row = 4000
  assert found.loops == (50,)
  # Of a turn: the row, the sum twice (added, sorted), both written; XLA may
  # copy the sum. Reading all rows in each turn would be 50 rows more.
  assert 5 * 50 * row <= found.bytes <= 9 * 50 * row


MOVES = """HloModule jit_f, num_partitions=1

%add_one (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %n = f32[8,128]{1,0:T(8,128)} negate(%p)
}

%put (q: f32[64,128], r: f32[8,128], i: s32[]) -> f32[64,128] {
  %q = f32[64,128]{1,0:T(8,128)} parameter(0)
  %r = f32[8,128]{1,0:T(8,128)S(1)} parameter(1)
  %i = s32[]{:T(128)S(6)} parameter(2)
  ROOT %u = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%q, %r, %i, %i)
}

%take (s: f32[64,128], j: s32[]) -> f32[8,128] {
  %s = f32[64,128]{1,0:T(8,128)} parameter(0)
  %j = s32[]{:T(128)S(6)} parameter(1)
  %b = f32[64,128]{1,0:T(8,128)} bitcast(%s)
  ROOT %d = f32[8,128]{1,0:T(8,128)S(1)} dynamic-slice(%b, %j, %j), \
dynamic_slice_sizes={8,128}
}

ENTRY %main (a: f32[64,128], k: s32[]) -> f32[64,128] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  %k = s32[]{:T(128)S(6)} parameter(1)
  LINE
}
"""
ROW, ALL = 8 * 128 * 4, 64 * 128 * 4
BIG, CHIP = "f32[64,128]{1,0:T(8,128)}", "f32[8,128]{1,0:T(8,128)S(1)}"


@pytest.mark.parametrize(
  ("line", "main", "everywhere"),
  [
    pytest.param(f"ROOT %t = {BIG} negate(%a)", 2 * ALL, 2 * ALL, id="plain"),
    pytest.param(f"ROOT %t = {BIG} bitcast(%a)", 0, 0, id="a name"),
    pytest.param(
      f"ROOT %t = ({BIG.replace('128)}', '128)S(1)}')}, {BIG}, u32[]) "
      "copy-start(%a)",
      ALL,
      2 * ALL,
      id="to the chip",
    ),
    pytest.param(
      f"ROOT %t = (({BIG}), {CHIP}, s32[]) slice-start(%a), slice={{[0:8]}}",
      ROW,
      2 * ROW,
      id="a part to the chip",
    ),
    pytest.param(
      f"%x = {CHIP} broadcast()\n  ROOT %t = f32[8,128]{{1,0:T(8,128)}} "
      "fusion(%x), kind=kLoop, calls=%add_one",
      ROW,
      3 * ROW,
      id="from the chip",
    ),
    # A scalar takes 512 bytes, on the chip.
    pytest.param(
      f"%x = {CHIP} broadcast()\n  ROOT %t = {BIG} fusion(%a, %x, %k), "
      "kind=kLoop, calls=%put",
      ROW,
      ROW + ROW + ROW + 512,
      id="in place",
    ),
    pytest.param(
      f"ROOT %t = {CHIP} fusion(%a, %k), kind=kLoop, calls=%take",
      ROW,
      2 * ROW + 512,
      id="a slice",
    ),
    pytest.param(
      f"%x = {CHIP} broadcast()\n  ROOT %t = {CHIP} custom-call(%x, %x), "
      'custom_call_target="ConcatBitcast"',
      0,
      ROW,
      id="beside each other",
    ),
  ],
)
def test_bytes_of_main_memory_and_of_all(line, main, everywhere):
  """Arrays of 8 x 128 floats on the chip, S(1), of 64 x 128 in main memory."""
  program = hlo.parse(MOVES.replace("LINE", line))
  assert cost.cost(program).bytes == main
  assert cost.cost(program, everywhere=True).bytes == everywhere


ASYNC = """HloModule jit_f, num_partitions=4

%begin (p: f32[2,128]) -> (f32[2,128], f32[8,128]) {
  %p = f32[2,128]{1,0} parameter(0)
  %g = f32[8,128]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4]
  ROOT %s = (f32[2,128]{1,0}, f32[8,128]{1,0}) custom-call(%g), \
custom_call_target="AsyncCollectiveStart"
}

%go_on (p: f32[2,128], q: f32[8,128], x: f32[64]) -> (f32[64], f32[2,128], \
f32[8,128]) {
  %p = f32[2,128]{1,0} parameter(0)
  %q = f32[8,128]{1,0} parameter(1)
  %x = f32[64]{0} parameter(2)
  %n = f32[64]{0} negate(%x)
  %g = f32[8,128]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4]
  ROOT %s = (f32[64]{0}, f32[2,128]{1,0}, f32[8,128]{1,0}) tuple(%n, %p, %g)
}

%end (p: f32[2,128], q: f32[8,128]) -> f32[8,128] {
  %p = f32[2,128]{1,0} parameter(0)
  %q = f32[8,128]{1,0} parameter(1)
  %g = f32[8,128]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4]
  ROOT %s = f32[8,128]{1,0} custom-call(%p, %q, %g), \
custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (a: f32[2,128], x: f32[64]) -> f32[8,128] {
  %a = f32[2,128]{1,0} parameter(0)
  %x = f32[64]{0} parameter(1)
  %one = (f32[2,128]{1,0}, f32[8,128]{1,0}) fusion(%a), kind=kCustom, \
calls=%begin
  %a1 = f32[2,128]{1,0} get-tuple-element(%one), index=0
  %q1 = f32[8,128]{1,0} get-tuple-element(%one), index=1
  %two = (f32[64]{0}, f32[2,128]{1,0}, f32[8,128]{1,0}) fusion(%a1, %q1, %x), \
kind=kCustom, calls=%go_on
  %a2 = f32[2,128]{1,0} get-tuple-element(%two), index=1
  %q2 = f32[8,128]{1,0} get-tuple-element(%two), index=2
  ROOT %three = f32[8,128]{1,0} fusion(%a2, %q2), kind=kCustom, calls=%end
}
"""


def test_a_collective_beside_other_work_counts_once():
  """Libtpu names it in the fusion that starts it, in others, and in the last.

  A part is 1 KiB, the whole 4 KiB: read, handed on and written by the first;
  the second reads and writes its 64 floats alone.
  """
  found = cost.cost(hlo.parse(ASYNC))
  (one,) = found.collectives
  assert (one.kind, one.bytes, one.sent) == ("all-gather", 4096, 3072)
  assert found.bytes == (1024 + 1024 + 4096) + 2 * 256


SCATTER = """HloModule jit_f, num_partitions=4

%all-reduce-scatter.1 (p: f32[8,128]) -> f32[2,128] {
  %p = f32[8,128]{1,0} parameter(0)
  %r = f32[8,128]{1,0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3}}
  %i = u32[] partition-id()
  ROOT %d = f32[2,128]{1,0} dynamic-slice(%r, %i, %i), \
dynamic_slice_sizes={2,128}
}

ENTRY %main (a: f32[8,128]) -> f32[2,128] {
  %a = f32[8,128]{1,0} parameter(0)
  ROOT %f = f32[2,128]{1,0} fusion(%a), kind=kCustom, \
calls=%all-reduce-scatter.1
}
"""


def test_a_sum_of_which_a_device_keeps_its_part():
  (one,) = cost.cost(hlo.parse(SCATTER)).collectives
  assert (one.kind, one.bytes, one.sent) == ("reduce-scatter", 4096, 3072)
