package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"sekisho/audit"
	"sekisho/audit/ship"
	"sekisho/authz/strictyaml"
	"sekisho/bastion"
	"sekisho/bastion/admin"
)

// Variables that are of no setting.
var otherVariables = []string{"SEKISHO_CONFIG", "SEKISHO_LOG_LEVEL", "SEKISHO_LOG_FORMAT"}

func newServe(std stdio) *cobra.Command {
	var w where
	var level, format string
	cmd := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "Run the server",
		Long: `Serve runs the server until SIGTERM, SIGINT or sekisho drain, and then gives the
forwards that run limits.drain_timeout to end; a second signal ends them at once.

SIGHUP reads policy, hosts and host keys again. A change of the hosts file is taken
over without it, one of the policy only with watch: true. All else in sekisho.yaml
is read at start.

Each setting has a variable that goes before the file, such as SEKISHO_LISTEN or
SEKISHO_LIMITS_LOGIN_GRACE (lists parted by commas), and flags go before those.`,
		Example: `  sekisho serve /etc/sekisho
  sekisho serve --config test.yaml --listen 127.0.0.1:2022 --log-format json`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := newLog(std.err, cmp.Or(level, os.Getenv("SEKISHO_LOG_LEVEL"), "info"), cmp.Or(format, os.Getenv("SEKISHO_LOG_FORMAT"), "text"))
			if err != nil {
				return err
			}
			hangup := make(chan os.Signal, 1) // before all else: it would end the process
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)

			config, given, err := w.find(cmd, args)
			if err != nil {
				return err
			}
			s, problems := load(config, given, os.Environ())
			if problems.Err() != nil {
				return &badFiles{problems}
			}
			logProblems(log, problems)
			if s.passed, err = passedListeners(); err != nil {
				return err
			}
			manager := findNotifier()
			svc, err := start(s, log)
			if err != nil {
				return err
			}
			svc.manager = manager
			if err := svc.confine(); err != nil {
				return errors.Join(err, svc.fail(err))
			}
			return svc.run(cmd.Context(), hangup)
		},
	}
	w.addFlags(cmd)
	cmd.Flags().StringVar(&level, "log-level", "", "the least `level` that is logged: debug, info, warn or error (default: info)")
	cmd.Flags().StringVar(&format, "log-format", "", "the `format` of the operational log: text or json (default: text)")
	return cmd
}

// newLog makes the operational log.
func newLog(w io.Writer, level, format string) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(w)
	l, err := logrus.ParseLevel(level)
	if err != nil || l < logrus.ErrorLevel || l > logrus.DebugLevel {
		return nil, usagef("the levels are debug, info, warn and error", "%q is not a log level", level)
	}
	log.SetLevel(l)
	switch format {
	case "text":
		text := &logrus.TextFormatter{FullTimestamp: true, TimestampFormat: time.RFC3339}
		log.SetFormatter(text)
		if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
			log.SetFormatter(textLines{text})
		}
	case "json":
		log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	default:
		return nil, usagef("the formats are text and json", "%q is not a log format", format)
	}
	return log, nil
}

// logProblems writes problems into the operational log.
func logProblems(log *logrus.Logger, problems strictyaml.Problems) {
	for _, p := range problems {
		hint := p.Hint
		p.Hint = ""
		line := log.WithFields(nil)
		if hint != "" {
			line = line.WithField("hint", hint)
		}
		if p.Warning {
			line.Warn(p.Error())
		} else {
			line.Error(p.Error())
		}
	}
}

// A service is a server with all that belongs to it, listening.
type service struct {
	setup     *setup
	log       *logrus.Logger
	book      *audit.Log
	sink      *ship.Sink // nil: the log is sent nowhere
	server    *bastion.Server
	listeners []net.Listener
	admin     *admin.Server
	socket    net.Listener // of admin; nil: there is none
	metrics   *metrics     // nil: there are none
	manager   notifier     // of services
	places    *places      // where files may be opened; nil: anywhere
	started   time.Time

	reading      sync.Mutex // held while the policy is read, and before reloading
	reloading    sync.Mutex // held while files are taken over
	policyUnread string     // why the policy could not be read the last time, or ""
	hostsRefused string     // content and problems of the hosts file that was refused last, or ""

	unwritten     bool     // the locks in force are not in their file
	locksFollowed *locking // what became of a change of that file, until a command asks

	refused map[string]string // the same of what is beside the policy, by file

	attempts     attempts
	countingDisk atomic.Bool // for a status
	drain        *drain
}

// start opens the audit log, which only one process may, and then listens.
func start(s *setup, log *logrus.Logger) (*service, error) {
	auditDir := s.path(s.settings.Audit.Dir)
	if info, err := os.Stat(auditDir); err == nil && ownerOf(info) != os.Geteuid() {
		return nil, failf("run sekisho as the user whom the folder belongs to, or chown it with all that is in it",
			"the audit folder %s belongs to %s, and sekisho runs as %s", auditDir, userName(ownerOf(info)), userName(os.Geteuid()))
	}
	book, err := audit.Open(auditDir, audit.Options{
		Bastion: s.settings.Name, SegmentSize: s.settings.Audit.SegmentSize, SegmentAge: s.settings.Audit.SegmentAge,
		Signer: s.logKey, Verifier: s.logPub,
		RetainAge: s.settings.Audit.RetainAge, RetainSize: s.settings.Audit.RetainSize,
		Warn: func(text string, fields map[string]any) { log.WithFields(fields).Warn(text) },
	})
	if err != nil {
		hint := ""
		switch {
		case errors.Is(err, audit.ErrLocked):
			hint = "another sekisho serves with this folder: stop it first, or give this one an audit.dir of its own"
		case errors.Is(err, os.ErrPermission):
			hint = "make the folder for the user that sekisho runs as: install -d -m 700 -o " + shellWord(userName(os.Geteuid())) + " " + shellWord(auditDir)
		}
		return nil, &failure{err, hint}
	}
	s.serving = true
	svc := &service{setup: s, log: log, book: book, refused: map[string]string{}, started: time.Now().UTC(), drain: newDrain()}
	if err := svc.open(); err != nil {
		return nil, errors.Join(err, svc.fail(err))
	}
	return svc, nil
}

// fail undoes what open has done so far, and records why.
func (svc *service) fail(cause error) error {
	for _, l := range svc.listeners {
		l.Close()
	}
	if svc.socket != nil {
		svc.socket.Close()
	}
	if svc.metrics != nil {
		svc.metrics.listener.Close()
	}
	return endLog(svc.log, recordTime, func() error {
		return svc.record(audit.Record{Type: audit.ServerStop, Reason: "failed", Detail: cause.Error()})
	}, svc.book.Close)
}

// open makes the server and its listeners, and records the policy.
func (svc *service) open() error {
	s := svc.setup
	descriptors, err := svc.resources()
	if err != nil {
		return err
	}
	svc.server, err = bastion.New(bastion.Config{
		Name: s.settings.Name, HostKeys: s.hostKeys, HostCertificates: s.hostCerts, Policy: s.policy,
		Hosts: s.hosts, DNS: systemDNS,
		Recorder: svc.book, Limits: s.settings.Limits, Penalties: s.settings.Penalties, Log: svc.log,
		Progress: s.settings.Audit.Progress, CloseOnLogFailure: s.settings.Audit.OnFailure == "close",
		Audit:       svc.auditOverSSH,
		Descriptors: descriptors, CipherByClient: !s.settings.PreferAESGCM,
	})
	if err != nil {
		return err
	}
	addresses := s.settings.Listen
	if len(s.passed) > 0 {
		svc.listeners, addresses = s.passed, nil
	}
	for _, address := range addresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			hint := ""
			switch {
			case errors.Is(err, syscall.EADDRINUSE):
				hint = "another process listens there: ss -ltnp; or change listen in " + s.config
			case errors.Is(err, syscall.EACCES):
				hint = "ports below 1024 are root's: use sekisho.socket, let sekisho have CAP_NET_BIND_SERVICE, or use another port"
			case errors.Is(err, syscall.EADDRNOTAVAIL):
				hint = "listen names an address that this machine does not have"
			}
			return &failure{err, hint}
		}
		svc.listeners = append(svc.listeners, l)
	}
	svc.admin = svc.api()
	if s.settings.Admin.Socket != "" {
		if svc.socket, err = admin.Listen(s.path(s.settings.Admin.Socket)); err != nil {
			return &failure{err, "admin.socket in " + s.config + " is where commands such as sekisho reload find the server; \"\" is for none"}
		}
	}
	if s.settings.Metrics.Listen != "" {
		if svc.metrics, err = svc.listenMetrics(); err != nil {
			return err
		}
	}
	if err := svc.keepFirst(); err != nil {
		return err
	}
	svc.attempts.taken("start")
	if err := svc.record(audit.Record{Type: audit.PolicyLoad, Policy: s.policy.Hash(), Reason: "start", Detail: s.counts.String()}); err != nil {
		return err
	}
	for _, rec := range locksSince(s.beside.locks, svc.book.Before()) {
		if err := svc.record(rec); err != nil {
			return err
		}
	}
	if err := svc.ship(); err != nil {
		return err
	}
	svc.announce()
	return nil
}

// recordTime is how long a record about the server itself may take.
const recordTime = 10 * time.Second

func (svc *service) record(rec audit.Record) error {
	ctx, cancel := context.WithTimeout(context.Background(), recordTime)
	defer cancel()
	return svc.book.Append(ctx, rec)
}

// announce says what now runs.
func (svc *service) announce() {
	s := svc.setup
	svc.log.WithFields(logrus.Fields{"version": version(), "pid": os.Getpid(), "name": s.settings.Name, "run": svc.book.Run(), "config": s.config}).Info("sekisho starts")
	if r := svc.book.Recovered(); r.Cut > 0 {
		svc.log.WithFields(logrus.Fields{"bytes": r.Cut, "segment": r.Segment, "saved": r.Saved}).
			Warn("the last run did not end in order: what it had half written was cut off the audit log")
	}
	if r := svc.book.Recovered(); r.Doubt != "" {
		svc.log.WithField("records", r.Unsigned).Errorf("no signed head was over the last records of the audit log, %s: they may have been changed, or heads removed; compare with a head that was kept: sekisho audit verify --since", r.Doubt)
	}
	if r := svc.book.Recovered(); r.Lost > 0 {
		svc.log.WithField("forwards", r.Lost).Warn("the last run did not end in order: its open forwards are recorded as lost")
	}
	if err := svc.book.Recovered().Foreign; err != nil {
		svc.log.WithError(err).Warn("the log key is not the one that has signed the newest heads: whoever checks the log needs both public keys")
	}
	svc.sayHostKeys()
	svc.log.WithFields(logrus.Fields{"policy": s.policy.Hash(), "hosts": s.hosts.Table().Len()}).Info("policy in force: " + s.counts.String())
	if len(s.passed) > 0 {
		svc.log.Info("the service manager has opened the sockets: listen is not used")
	}
	for _, l := range svc.listeners {
		svc.log.WithField("address", l.Addr().String()).Info("listening")
	}
	if svc.metrics != nil {
		svc.log.WithField("address", svc.metrics.listener.Addr().String()).Info("metrics")
	}
}

// run serves until ctx ends, and then stops in order. Each value from hangup
// is an order to read policy and hosts again.
func (svc *service) run(ctx context.Context, hangup <-chan os.Signal) error {
	failed := make(chan error, len(svc.listeners))
	var serving sync.WaitGroup
	for _, l := range svc.listeners {
		serving.Go(func() {
			if err := svc.server.Serve(l); err != nil {
				failed <- err
			}
		})
	}
	if svc.socket != nil {
		serving.Go(func() {
			if err := svc.admin.Serve(svc.socket); err != nil {
				svc.log.WithError(err).Error("the admin socket is closed")
			}
		})
	}
	if svc.metrics != nil {
		serving.Go(func() {
			if err := svc.metrics.serve(); err != nil {
				svc.log.WithError(err).Error("metrics are no longer served")
			}
		})
	}
	following, unfollow := context.WithCancel(ctx)
	serving.Go(func() { svc.follow(following) })
	serving.Go(func() { svc.watchLog(following) })
	if err := svc.manager.tell("READY=1"); err != nil {
		svc.log.WithError(err).Warn("the service manager does not know that the server is ready")
	}
	living, die := context.WithCancel(context.Background())
	defer die()
	go svc.alive(living, svc.manager)
	go tendGarbage(living)

	var err, cause error
	for cause == nil {
		select {
		case <-ctx.Done():
			cause = context.Cause(ctx)
		case cause = <-svc.drain.ordered:
		case err = <-failed:
			cause = err
		case <-hangup:
			svc.reload(bySignal, true)
		}
	}
	unfollow()
	return errors.Join(err, svc.stop(cause, &serving))
}

// stop drains the server and ends the log.
func (svc *service) stop(cause error, serving *sync.WaitGroup) error {
	// The first signal has ended the context of the command, unless a command
	// was the order; the next one is impatience, and the one after that ends the
	// process as it stands.
	hurry, done := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(hurry, done)
	context.AfterFunc(hurry, svc.drain.hurry)

	svc.drain.begin(cause, svc.setup.settings.Limits.DrainTimeout)
	svc.tellLeft("stopping: no new connections; what runs may end by itself", logrus.Fields{
		"cause": cause, "drain_timeout": svc.drain.limit(),
	})
	said := make(chan struct{})
	waiting, drained := context.WithCancel(context.Background())
	go func() { defer close(said); svc.tellDraining(waiting) }()
	defer svc.manager.tellStopping()()
	cut := svc.server.Drain(svc.drain.waiting)
	drained()
	<-said
	svc.drain.finish(cut)
	closing, closed := context.WithTimeout(context.Background(), recordTime)
	svc.admin.Shutdown(closing)
	if svc.metrics != nil {
		svc.metrics.shutdown(closing)
	}
	closed()
	serving.Wait()

	detail := fmt.Sprintf("%v; %s had to be ended", cause, many(cut, "forward"))
	if cut == 0 {
		detail = fmt.Sprintf("%v; nothing had to be ended", cause)
	}
	err := endLog(svc.log, recordTime, func() error {
		return svc.record(audit.Record{Type: audit.ServerStop, Reason: "stopped", Detail: detail})
	}, svc.book.Close)
	svc.deliver()
	svc.log.WithField("forwards_ended", cut).Info("stopped")
	return err
}

// endLog makes the last record and closes the audit log. A log that hangs is
// left as it is after the limit: the process is to end all the same.
func endLog(log *logrus.Logger, limit time.Duration, record, end func() error) error {
	closed := make(chan error, 1)
	go func() {
		if err := record(); err != nil {
			log.WithError(err).Error("the stop is not recorded")
		}
		closed <- end()
	}()
	select {
	case err := <-closed:
		return err
	case <-time.After(limit):
		log.WithField("waited", limit).Error("the audit log did not close: the stop may not be recorded")
		return failf("the disk of the audit log may hang; the next start recovers the log", "the audit log did not close within %s", brief(limit))
	}
}

// tellDraining says now and then who is still waited for.
func (svc *service) tellDraining(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			svc.tellLeft("still draining; another signal ends them at once", logrus.Fields{})
		}
	}
}

// tellLeft logs who is still connected, by name as far as that is short.
func (svc *service) tellLeft(text string, fields logrus.Fields) {
	left := svc.server.LiveForwards()
	fields["forwards"], fields["connections"] = len(left), svc.server.Connections()
	if len(left) > 0 {
		fields["left"] = named(left)
	}
	svc.log.WithFields(fields).Info(text)
}

// auditPath is the folder of the audit log.
func (svc *service) auditPath() string {
	return filepath.Clean(svc.setup.path(svc.setup.settings.Audit.Dir))
}
