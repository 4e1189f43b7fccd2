package bastion_test

import (
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// BenchmarkEchoBesideBulk measures how long a byte takes to a target and back
// while bulk is downloaded through the same connection, and what the download
// moves meanwhile, with the limit on bulk and without. Each round is a fresh
// connection, and rounds with and without the limit are run in turn. Client,
// server and targets are one process.
//
//	go test ./bastion -run '^$' -bench EchoBesideBulk -benchtime 5x
func BenchmarkEchoBesideBulk(b *testing.B) {
	for _, bulk := range []int{0, 1, 2, 10} {
		b.Run(fmt.Sprintf("bulk=%d", bulk), func(b *testing.B) { benchmarkEcho(b, bulk) })
	}
}

func benchmarkEcho(b *testing.B, bulk int) {
	server := bastiontest.Start(b, bastiontest.Options{})
	echo, from := bastiontest.Target(b, bastiontest.Echo), bastiontest.Target(b, pour)
	var limited, free echoTimes
	for b.Loop() {
		limited.round(b, server, echo, from, bulk, false)
		free.round(b, server, echo, from, bulk, true)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(limited.at(50), "ms-p50")
	b.ReportMetric(limited.at(90), "ms-p90")
	b.ReportMetric(free.at(50), "ms-p50-free")
	b.ReportMetric(free.at(90), "ms-p90-free")
	if bulk > 0 {
		b.ReportMetric(limited.rate(), "MB/s")
		b.ReportMetric(free.rate(), "MB/s-free")
	}
}

type echoTimes struct {
	took    []time.Duration
	moved   int64
	elapsed time.Duration
}

func (e *echoTimes) round(b *testing.B, server *bastiontest.Bastion, echo, from, bulk int, free bool) {
	const settle, window, pause = 300 * time.Millisecond, time.Second, 2 * time.Millisecond
	client := server.Dial()
	defer client.Close()
	open := func(port int) net.Conn {
		conn, err := client.Dial("tcp", target(port))
		if err != nil {
			b.Fatal(err)
		}
		return conn
	}
	if free {
		bastion.LimitNoTraffic(server.Server)
	}
	var moved atomic.Int64
	for range bulk {
		conn := open(from)
		go func() {
			buf := make([]byte, 64<<10)
			for {
				n, err := conn.Read(buf)
				moved.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
	small, one := open(echo), make([]byte, 1)
	exchange := func() time.Duration {
		began := time.Now()
		if _, err := small.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(small, one); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	for began := time.Now(); time.Since(began) < settle; time.Sleep(pause) {
		exchange()
	}
	before, began := moved.Load(), time.Now()
	for time.Since(began) < window {
		e.took = append(e.took, exchange())
		time.Sleep(pause)
	}
	e.moved += moved.Load() - before
	e.elapsed += time.Since(began)
}

func (e *echoTimes) at(percent int) float64 {
	slices.Sort(e.took)
	return float64(e.took[len(e.took)*percent/100].Microseconds()) / 1000
}

func (e *echoTimes) rate() float64 { return float64(e.moved) / e.elapsed.Seconds() / 1e6 }
