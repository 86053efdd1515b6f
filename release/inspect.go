package release

import (
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"gururmm/wire"
)

// ErrExecutable: a file is not an executable that can be recognised.
var ErrExecutable = errors.New("not a recognisable executable")

// Platform is an operating system and architecture in Go's names.
type Platform struct{ OS, Arch string }

func (p Platform) String() string { return p.OS + "/" + p.Arch }

// Inspect reads from a program's headers what it was built for: one platform, or
// several of a universal macOS program. The error wraps [ErrExecutable].
//
// An ELF header does not tell Linux from other systems that leave its ABI field
// empty; those that fill it in are recognised.
func Inspect(program io.ReaderAt) ([]Platform, error) {
	var magic [4]byte
	if _, err := program.ReadAt(magic[:], 0); err != nil {
		return nil, fmt.Errorf("%w: it has not even four bytes: %w", ErrExecutable, err)
	}
	switch {
	case string(magic[:]) == elf.ELFMAG:
		return inspectELF(program)
	case string(magic[:2]) == "MZ":
		return inspectPE(program)
	case isMachO(magic):
		return inspectMachO(program)
	}
	return nil, fmt.Errorf("%w: it begins with % x", ErrExecutable, magic)
}

// CheckPlatform refuses a program that was not built for b's platform, whatever
// was written beside it. The error wraps [ErrExecutable] or [ErrMismatch].
func CheckPlatform(program io.ReaderAt, b wire.Build) error {
	found, err := Inspect(program)
	if err != nil {
		return err
	}
	for _, p := range found {
		if p.OS == b.OS && p.Arch == b.Arch {
			return nil
		}
	}
	return fmt.Errorf("%w: the file is a program for %v, offered for %s/%s", ErrMismatch, found, b.OS, b.Arch)
}

// elfSystems are the systems that name themselves in an ELF header, and the two that leave it open.
var elfSystems = map[elf.OSABI]string{
	elf.ELFOSABI_NONE: "linux", elf.ELFOSABI_LINUX: "linux", elf.ELFOSABI_FREEBSD: "freebsd",
	elf.ELFOSABI_NETBSD: "netbsd", elf.ELFOSABI_OPENBSD: "openbsd", elf.ELFOSABI_SOLARIS: "solaris",
}

func inspectELF(r io.ReaderAt) ([]Platform, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExecutable, err)
	}
	os := elfSystems[f.OSABI]
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN || os == "" || len(f.Progs) == 0 {
		return nil, fmt.Errorf("%w: ELF file of %v for %v", ErrExecutable, f.Type, f.OSABI)
	}
	little := f.ByteOrder == binary.LittleEndian
	arch := ""
	switch f.Machine {
	case elf.EM_X86_64:
		arch = "amd64"
	case elf.EM_386:
		arch = "386"
	case elf.EM_AARCH64:
		arch = "arm64"
	case elf.EM_ARM:
		arch = "arm"
	case elf.EM_RISCV:
		arch = "riscv64"
	case elf.EM_PPC64:
		if arch = "ppc64"; little {
			arch = "ppc64le"
		}
	case elf.EM_S390:
		arch = "s390x"
	default:
		return nil, fmt.Errorf("%w: ELF file for %v", ErrExecutable, f.Machine)
	}
	return []Platform{{os, arch}}, nil
}

func inspectPE(r io.ReaderAt) ([]Platform, error) {
	f, err := pe.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExecutable, err)
	}
	if f.Characteristics&pe.IMAGE_FILE_EXECUTABLE_IMAGE == 0 || f.Characteristics&pe.IMAGE_FILE_DLL != 0 {
		return nil, fmt.Errorf("%w: Windows file that is no program", ErrExecutable)
	}
	arch := map[uint16]string{
		pe.IMAGE_FILE_MACHINE_AMD64: "amd64", pe.IMAGE_FILE_MACHINE_I386: "386",
		pe.IMAGE_FILE_MACHINE_ARM64: "arm64", pe.IMAGE_FILE_MACHINE_ARMNT: "arm",
	}[f.Machine]
	if arch == "" {
		return nil, fmt.Errorf("%w: Windows program for machine %#x", ErrExecutable, f.Machine)
	}
	return []Platform{{"windows", arch}}, nil
}

func isMachO(magic [4]byte) bool {
	big, little := binary.BigEndian.Uint32(magic[:]), binary.LittleEndian.Uint32(magic[:])
	return big == macho.MagicFat || little == macho.Magic64 || little == macho.Magic32 || big == macho.Magic64
}

func inspectMachO(r io.ReaderAt) ([]Platform, error) {
	fat, err := macho.NewFatFile(r)
	if err == nil {
		var found []Platform
		for _, a := range fat.Arches {
			p, err := machPlatform(a.File)
			if err != nil {
				return nil, err
			}
			found = append(found, p)
		}
		return found, nil
	}
	if !errors.Is(err, macho.ErrNotFat) {
		return nil, fmt.Errorf("%w: %w", ErrExecutable, err)
	}
	f, err := macho.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExecutable, err)
	}
	p, err := machPlatform(f)
	if err != nil {
		return nil, err
	}
	return []Platform{p}, nil
}

func machPlatform(f *macho.File) (Platform, error) {
	arch := map[macho.Cpu]string{macho.CpuAmd64: "amd64", macho.CpuArm64: "arm64"}[f.Cpu]
	if arch == "" || f.Type != macho.TypeExec {
		return Platform{}, fmt.Errorf("%w: macOS file of %v for %v", ErrExecutable, f.Type, f.Cpu)
	}
	return Platform{"darwin", arch}, nil
}
