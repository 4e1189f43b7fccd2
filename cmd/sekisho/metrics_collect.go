package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sekisho/audit"
)

// collector makes metrics of what the server and the log have counted, at the
// time at which they are asked for. The values of labels are codes and names
// of ours: no user, no target and nothing that a client sent is in them.
type collector struct{ svc *service }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sekisho_"+name, help, labels, nil)
}

var (
	descInfo        = desc("info", "The version of the server that runs; always 1.", "version")
	descStarted     = desc("start_time_seconds", "When the server started, in seconds since 1970.")
	descConns       = desc("connections", "SSH connections now, by whether they are logged in.", "state")
	descConnsTotal  = desc("connections_total", "SSH connections taken in.")
	descConnRefused = desc("connections_refused_total", "Connections closed before a byte was read, by reason.", "reason")
	descConnEnds    = desc("connections_ended_total", "Connections taken in that have ended (close), or ended before a login (fail), by reason.", "result", "reason")
	descHandshake   = desc("handshake_seconds", "How long it took from taking a connection in until the client, its keys exchanged, asked for a login (ok), or was gone (fail).", "result")
	descLogins      = desc("logins_total", "Logins by result (ok, fail) and reason.", "result", "reason")
	descForwards    = desc("forwards", "Forwards that are open or being opened now.")
	descEnds        = desc("forwards_total", "Forwards that have ended (close, fail) or were refused (deny), by reason.", "result", "reason")
	descBytes       = desc("forward_bytes_total", "Bytes forwarded: up, client to target, and down.", "direction")
	descDial        = desc("dial_seconds", "How long dialling one address took, by result (ok, fail).", "result")
	descLimit       = desc("limit", "The limits on how many there may be.", "limit")
	descLimitUsed   = desc("limit_used", "How much of a limit is used; of one for each user, source or connection, by the one that uses the most.", "limit")
	descPolicyTime  = desc("policy_load_time_seconds", "When the policy in force was loaded, in seconds since 1970.")
	descReload      = desc("reload_failed", "1 if the last attempt to take files over has failed, else 0.")
	descLogNext     = desc("audit_next_seq", "The number of the audit log's next record.")
	descLogSigned   = desc("audit_signed_records", "How many of the audit log's records are below a signed head.")
	descLogWaiting  = desc("audit_waiting_records", "Records that are not on stable storage yet.")
	descLogLag      = desc("audit_lag_seconds", "For how long the oldest of these has waited; 0 if none waits.")
	descLogOK       = desc("audit_writable", "1 if the audit log can be written, else 0.")
	descLogOutages  = desc("audit_outages_total", "How often the audit log came to be one that cannot be written.")
	descLogDurable  = desc("audit_last_durable_time_seconds", "When a record last came to be on stable storage, in seconds since 1970.")
	descLogFsync    = desc("audit_fsync_seconds", "How long a write to the audit log with its fsync took.")
	descDraining    = desc("draining", "1 once the server is about to end, else 0.")
	descSyslogUp    = desc("audit_syslog_connected", "1 if the syslog receiver is connected, else 0.")
	descSyslogNext  = desc("audit_syslog_next_seq", "The number of the next record that the syslog receiver is to get.")
	descSyslogLag   = desc("audit_syslog_lag_seconds", "How long ago that record was made; 0 if none is to be sent.")
	descSyslogLost  = desc("audit_syslog_missed_total", "Records that retention took before the syslog receiver could have them.")
)

// Describe tells of all metrics that there can be.
func (*collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInfo, descStarted, descDraining, descConns, descConnsTotal, descConnRefused, descConnEnds, descHandshake, descLogins, descForwards, descEnds, descBytes, descDial,
		descLimit, descLimitUsed, descPolicyTime, descReload, descLogNext, descLogSigned, descLogWaiting, descLogLag, descLogOK, descLogOutages, descLogDurable, descLogFsync,
		descSyslogUp, descSyslogNext, descSyslogLag, descSyslogLost,
	} {
		to <- d
	}
}

// Collect waits for no disk.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	count := func(d *prometheus.Desc, value uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	timing := func(d *prometheus.Desc, t audit.Timing, labels ...string) {
		buckets, below := map[float64]uint64{}, uint64(0)
		for i, bound := range audit.TimingBounds {
			below += t.Counts[i]
			buckets[bound.Seconds()] = below
		}
		to <- prometheus.MustNewConstHistogram(d, t.Count(), t.Sum.Seconds(), buckets, labels...)
	}
	svc := c.svc
	gauge(descInfo, 1, version())
	gauge(descStarted, seconds(svc.started))
	gauge(descDraining, bit(svc.drain.begun()))

	counts := svc.server.Counts()
	in, before := svc.server.LoggedIn()
	gauge(descConns, float64(in), "logged_in")
	gauge(descConns, float64(before), "before_login")
	count(descConnsTotal, counts.Connections)
	for reason, n := range counts.ConnectionsRefused {
		count(descConnRefused, n, reason)
	}
	for o, n := range counts.ConnectionsEnded {
		count(descConnEnds, n, o.Result, o.Reason)
	}
	timing(descHandshake, counts.HandshakesDone, "ok")
	timing(descHandshake, counts.HandshakesFailed, "fail")
	for o, n := range counts.Logins {
		count(descLogins, n, o.Result, o.Reason)
	}
	gauge(descForwards, float64(svc.server.Forwards()))
	for o, n := range counts.Forwards {
		count(descEnds, n, o.Result, o.Reason)
	}
	count(descBytes, counts.BytesUp, "up")
	count(descBytes, counts.BytesDown, "down")
	timing(descDial, counts.DialsDone, "ok")
	timing(descDial, counts.DialsFailed, "fail")
	for _, use := range svc.server.LimitsInUse() {
		gauge(descLimit, float64(use.Most), use.Name)
		gauge(descLimitUsed, float64(use.Used), use.Name)
	}

	policy, _, failed := svc.attempts.now()
	gauge(descPolicyTime, seconds(policy.At))
	gauge(descReload, bit(len(failed) > 0))

	book := svc.book.Stats()
	why, _ := book.Trouble(time.Now())
	gauge(descLogNext, float64(book.Next))
	gauge(descLogSigned, float64(book.Signed))
	gauge(descLogWaiting, float64(book.Waiting))
	gauge(descLogLag, book.Lag(time.Now()).Seconds())
	gauge(descLogOK, bit(why == ""))
	count(descLogOutages, book.Outages)
	gauge(descLogDurable, seconds(book.Durable))
	timing(descLogFsync, book.Fsync)
	if s := svc.syslogNow(); s != nil {
		gauge(descSyslogUp, bit(!s.Connected.IsZero()))
		gauge(descSyslogNext, float64(s.Next))
		gauge(descSyslogLag, s.Lag)
		count(descSyslogLost, s.Missed)
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
