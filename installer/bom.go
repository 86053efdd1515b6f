package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"
	"time"
)

// A bill of materials (bom(5)) tells Apple's installer which files a package brings. Its format
// is not published; what is known of it stands in the source of bomutils, by which this is
// written: numbered blocks, a table of where they are, and named ones to begin with.

// maxBom is how many files one leaf of its tree takes.
const maxBom = 256

// store gathers the blocks of a bill.
type store struct {
	blocks [][]byte // block 0 is none
	vars   []struct {
		name  string
		block uint32
	}
}

func (s *store) add(fields ...any) uint32 {
	var b bytes.Buffer
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			b.WriteString(f)
		case []byte:
			b.Write(f)
		default:
			if err := binary.Write(&b, binary.BigEndian, f); err != nil {
				panic(err) // a type of no fixed size: seen by every test
			}
		}
	}
	s.blocks = append(s.blocks, b.Bytes())
	return uint32(len(s.blocks) - 1)
}

func (s *store) name(name string, block uint32) {
	s.vars = append(s.vars, struct {
		name  string
		block uint32
	}{name, block})
}

// tree adds a tree of one leaf with these pairs of blocks.
func (s *store) tree(blockSize uint32, pairs ...uint32) uint32 {
	leaf := []any{uint16(1), uint16(len(pairs) / 2), uint32(0), uint32(0)} // a leaf, how many, no other behind or before it
	for _, p := range pairs {
		leaf = append(leaf, p)
	}
	child := s.add(leaf...)
	return s.add("tree", uint32(1), child, blockSize, uint32(len(pairs)/2), uint8(0))
}

// bom is the bill of members, folders before what is in them; the first is ".".
func bom(members []member, when time.Time) ([]byte, error) {
	if len(members) > maxBom {
		return nil, fmt.Errorf("%d files in a package, at most %d are known how to be written", len(members), maxBom)
	}
	s := &store{blocks: [][]byte{nil}}
	s.name("BomInfo", s.add(uint32(1), uint32(len(members)+1), uint32(0)))
	ids, pairs := map[string]uint32{}, []uint32(nil)
	for i, m := range members {
		kind, size, sum := uint8(1), uint32(len(m.data)), cksum(m.data)
		if m.mode.IsDir() {
			kind, size, sum = 2, 0, 0
		}
		id := uint32(i + 1)
		name := path.Clean(m.name)
		parent, known := ids[path.Dir(name)]
		if name == "." {
			parent = 0
		} else if !known {
			return nil, fmt.Errorf("%s comes before its folder", m.name)
		}
		ids[name] = id
		info := s.add(kind, uint8(1), uint16(3), uint16(unixMode(m.mode)), uint32(0), uint32(0), uint32(when.Unix()), size, uint8(1), sum, uint32(0))
		pairs = append(pairs, s.add(id, info), s.add(parent, path.Base(name), uint8(0)))
	}
	s.name("Paths", s.tree(4096, pairs...))
	s.name("HLIndex", s.tree(4096))
	s.name("VIndex", s.add(uint32(1), s.tree(128), uint32(0), uint8(0)))
	s.name("Size64", s.tree(4096))
	return s.bytes(), nil
}

// bytes lays the blocks out: header, blocks, names, table.
func (s *store) bytes() []byte {
	const header = 512
	var body, vars, table bytes.Buffer
	put := func(b *bytes.Buffer, fields ...uint32) {
		for _, f := range fields {
			b.Write(binary.BigEndian.AppendUint32(nil, f))
		}
	}
	put(&table, uint32(len(s.blocks)))
	for _, block := range s.blocks {
		at := uint32(0)
		if block != nil {
			at = uint32(header + body.Len())
		}
		put(&table, at, uint32(len(block)))
		body.Write(block)
	}
	put(&table, 2, 0, 0, 0, 0) // the list of what is free
	put(&vars, uint32(len(s.vars)))
	for _, v := range s.vars {
		put(&vars, v.block)
		vars.WriteByte(byte(len(v.name)))
		vars.WriteString(v.name)
	}
	out := bytes.NewBufferString("BOMStore")
	varsAt := uint32(header + body.Len())
	put(out, 1, uint32(len(s.blocks)-1), varsAt+uint32(vars.Len()), uint32(table.Len()), varsAt, uint32(vars.Len()))
	out.Write(make([]byte, header-out.Len()))
	out.Write(body.Bytes())
	out.Write(vars.Bytes())
	out.Write(table.Bytes())
	return out.Bytes()
}

// cksum is POSIX's checksum of a file, as cksum(1) prints it.
func cksum(data []byte) uint32 {
	var crc uint32
	step := func(b byte) {
		crc ^= uint32(b) << 24
		for range 8 {
			if crc&(1<<31) != 0 {
				crc = crc<<1 ^ 0x04c11db7
			} else {
				crc <<= 1
			}
		}
	}
	for _, b := range data {
		step(b)
	}
	for n := len(data); n > 0; n >>= 8 {
		step(byte(n))
	}
	return ^crc
}
