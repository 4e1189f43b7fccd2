package bastion

import (
	"bufio"
	"io"
	"net"
	"testing"
)

// benchPair is a connection on loopback.
func benchPair(b *testing.B) (client, server net.Conn) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// cpuPerGB reports the CPU time of the process, both ends of the connection, for
// 10^9 bytes.
func cpuPerGB(b *testing.B, size int, run func()) {
	b.Helper()
	b.SetBytes(int64(size))
	before := processTime()
	b.ResetTimer()
	run()
	b.ReportMetric((processTime()-before).Seconds()/(float64(b.N)*float64(size)/1e9), "cpu-s/GB")
}

// usualPacket is the size of a packet with as much payload as there can be.
const usualPacket = 32<<10 + 32 + gcmTag

// BenchmarkReadingPackets reads as the library does: through a buffer of 4 KiB,
// first the length and then the rest.
func BenchmarkReadingPackets(b *testing.B) {
	for _, ahead := range []bool{false, true} {
		name := "as they are asked for"
		if ahead {
			name = "ahead"
		}
		b.Run(name, func(b *testing.B) {
			client, server := benchPair(b)
			w := testWire(server)
			w.loggedIn()
			if !ahead {
				w.more = nil
			}
			go func() {
				p := make([]byte, usualPacket)
				for {
					if _, err := client.Write(p); err != nil {
						return
					}
				}
			}()
			r, p := bufio.NewReader(w), make([]byte, usualPacket)
			cpuPerGB(b, usualPacket, func() {
				for range b.N {
					if _, err := io.ReadFull(r, p[:4]); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(r, p[4:]); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkWritingPackets writes as the library does: through a buffer of 4 KiB,
// which is flushed behind each packet.
func BenchmarkWritingPackets(b *testing.B) {
	for _, merge := range []bool{false, true} {
		name := "in pieces"
		if merge {
			name = "merged"
		}
		b.Run(name, func(b *testing.B) {
			client, server := benchPair(b)
			w := testWire(server)
			w.loggedIn()
			if merge {
				w.merger = &merger{tag: gcmTag}
			}
			go io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{client})
			out, p := bufio.NewWriter(w), packetOf(usualPacket, gcmTag, 99)
			cpuPerGB(b, usualPacket, func() {
				for range b.N {
					out.Write(p[:4])
					out.Write(p[4:])
					if err := out.Flush(); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
