package main

import (
	"net/http"
	"net/http/pprof"
	"time"
)

// mostProfile bounds a profile, and with it every answer where profiles are
// served; the usual one takes 30 seconds.
const mostProfile = 2 * time.Minute

// profiles serves those of the process. They name functions of the program and
// nothing that anybody sent; the command line, which package pprof would serve
// too, is left out. That package also adds itself to http.DefaultServeMux, which
// is served nowhere.
func profiles(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index) // and heap, goroutine, allocs, mutex, block
	mux.HandleFunc("/debug/pprof/cmdline", http.NotFound)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}
