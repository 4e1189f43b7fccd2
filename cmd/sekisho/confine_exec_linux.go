package main

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// auditArch tells system calls of this program's machine from those of others
// that the kernel knows, whose numbers mean something else (seccomp(2)).
var auditArch = map[string]uint32{
	"386": unix.AUDIT_ARCH_I386, "amd64": unix.AUDIT_ARCH_X86_64, "arm": unix.AUDIT_ARCH_ARM, "arm64": unix.AUDIT_ARCH_AARCH64,
	"loong64": unix.AUDIT_ARCH_LOONGARCH64, "ppc64le": unix.AUDIT_ARCH_PPC64LE, "riscv64": unix.AUDIT_ARCH_RISCV64, "s390x": unix.AUDIT_ARCH_S390X,
}

// x32 is the bit of the third set of numbers that amd64 has.
const x32 = 0x40000000

// forbidCalls makes the kernel refuse system calls to this process, for good and
// on every thread. It wants no_new_privs.
func forbidCalls(answer unix.Errno, calls ...uint32) error {
	arch, ok := auditArch[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("not known how on %s", runtime.GOARCH)
	}
	const (
		load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		atLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		end     = unix.BPF_RET | unix.BPF_K

		number, machine = 0, 4 // in struct seccomp_data
	)
	refusal := len(calls) + 5 // the number of the last instruction
	from := func(at int) uint8 { return uint8(refusal - at - 1) }
	filter := []unix.SockFilter{
		{Code: load, K: machine},
		{Code: equal, Jf: from(1), K: arch},
		{Code: load, K: number},
		{Code: atLeast, Jt: from(3), K: x32},
	}
	for i, call := range calls {
		filter = append(filter, unix.SockFilter{Code: equal, Jt: from(4 + i), K: call})
	}
	filter = append(filter,
		unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ERRNO | uint32(answer)})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	switch {
	case errno != 0:
		return errno
	case thread != 0:
		return fmt.Errorf("thread %d has a filter of its own", thread)
	}
	return nil
}
