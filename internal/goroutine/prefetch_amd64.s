//go:build linux

#include "textflag.h"

// func Stack() uintptr
TEXT ·Stack(SB), NOSPLIT, $0-8
	LEAQ ret+0(FP), AX
	MOVQ AX, ret+0(FP)
	RET

// func Prefetch(p any)
TEXT ·Prefetch(SB), NOSPLIT, $0-16
	MOVQ p_data+8(FP), AX
	PREFETCHT0 (AX)
	PREFETCHT0 64(AX)
	RET

// The frames below that of the caller of Stack are those of the switch itself, 192
// bytes; those above it, up to a function that reads in a loop, are a few hundred.
// In the runtime's record, half of the first 448 bytes are touched.

// func PrefetchSwitch(id, stack uintptr)
TEXT ·PrefetchSwitch(SB), NOSPLIT, $0-16
	MOVQ id+0(FP), AX
	MOVQ stack+8(FP), BX
	PREFETCHT0 (AX)
	PREFETCHT0 64(AX)
	PREFETCHT0 128(AX)
	PREFETCHT0 192(AX)
	PREFETCHT0 256(AX)
	PREFETCHT0 320(AX)
	PREFETCHT0 384(AX)
	PREFETCHT0 -192(BX)
	PREFETCHT0 -128(BX)
	PREFETCHT0 -64(BX)
	PREFETCHT0 (BX)
	PREFETCHT0 64(BX)
	PREFETCHT0 128(BX)
	PREFETCHT0 192(BX)
	PREFETCHT0 256(BX)
	PREFETCHT0 320(BX)
	PREFETCHT0 384(BX)
	RET
