package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"sekisho/bastion/admin"
)

// metrics serve what a monitoring system reads, over plain HTTP and to whoever
// can reach it; so nothing in them names a person or a target.
//
//	GET /metrics   in the format of Prometheus
//	GET /healthz   200 while the process serves
//	GET /readyz    503 once it stops, and while the audit log cannot be written
//	GET /debug/pprof/…  with metrics.pprof only: see profiles
type metrics struct {
	listener net.Listener
	server   *http.Server
}

// mostScrapers bounds the connections at once; the next wait to be accepted.
const mostScrapers = 16

// listenMetrics listens where the settings say.
func (svc *service) listenMetrics() (*metrics, error) {
	where := svc.setup.settings.Metrics.Listen
	var l net.Listener
	var err error
	if isSocket(where) {
		l, err = admin.Listen(svc.setup.path(where))
	} else {
		l, err = net.Listen("tcp", where)
	}
	if err != nil {
		return nil, &failure{fmt.Errorf("metrics: %w", err), "metrics.listen in " + svc.setup.config + ` is where they are to be had; "" is for none`}
	}
	most := 15 * time.Second
	if svc.setup.settings.Metrics.Pprof {
		most = mostProfile
	}
	return &metrics{l, &http.Server{
		Handler: svc.metricsHandler(), MaxHeaderBytes: 16 << 10, DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: most, IdleTimeout: 30 * time.Second,
		ErrorLog: log.New(logLines(func(line string) { svc.log.WithField("error", printable(line)).Debug("metrics") }), "", 0),
	}}, nil
}

func (m *metrics) serve() error {
	if err := m.server.Serve(netutil.LimitListener(m.listener, mostScrapers)); err != http.ErrServerClosed {
		return err
	}
	return nil
}

func (m *metrics) shutdown(ctx context.Context) {
	if m.server.Shutdown(ctx) != nil {
		m.server.Close()
	}
}

// metricsHandler answers GET, and nothing else.
func (svc *service) metricsHandler() http.Handler {
	registry := prometheus.NewRegistry() // of our own: the default one is anybody's
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &collector{svc})
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	if svc.setup.settings.Metrics.Pprof {
		profiles(mux)
	}
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { answerText(w, http.StatusOK, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		why, _ := svc.book.Stats().Trouble(time.Now())
		switch {
		case svc.drain.begun():
			answerText(w, http.StatusServiceUnavailable, "stopping")
		case why != "": // the words are for sekisho status: they name files
			answerText(w, http.StatusServiceUnavailable, "the audit log cannot be written")
		default:
			answerText(w, http.StatusOK, "ok")
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			answerText(w, http.StatusMethodNotAllowed, "only GET")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func answerText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// logLines is a writer of whole lines.
type logLines func(line string)

func (l logLines) Write(p []byte) (int, error) {
	l(strings.TrimSpace(string(p)))
	return len(p), nil
}
