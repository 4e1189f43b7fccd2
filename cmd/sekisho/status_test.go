package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"sekisho/audit"
)

func TestAServerWhoseLogCannotBeWrittenIsNotWellAndThenIs(t *testing.T) {
	svc, dir, out := startTest(t)
	handler := svc.metricsHandler()
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w
	}
	if w := get("/readyz"); w.Code != http.StatusOK {
		t.Errorf("readyz: %d %s", w.Code, w.Body)
	}
	if st := svc.status(t.Context()); !st.Well || !st.Log.Writable || st.Log.Segments != 1 || st.Log.Bytes == 0 {
		t.Errorf("%+v", st)
	}

	lock := dir + "/audit/lock"
	if err := os.Rename(lock, lock+".away"); err != nil {
		t.Fatal(err)
	}
	if err := svc.record(audit.Record{Type: audit.PolicyLoad}); err == nil {
		t.Fatal("the log can still be written")
	}
	if w := get("/readyz"); w.Code != http.StatusServiceUnavailable || w.Body.String() != "the audit log cannot be written\n" {
		t.Errorf("readyz: %d %s", w.Code, w.Body)
	}
	if w := get("/healthz"); w.Code != http.StatusOK {
		t.Errorf("healthz: %d %s", w.Code, w.Body)
	}
	if w := get("/metrics"); !strings.Contains(w.Body.String(), "\nsekisho_audit_writable 0\n") || !strings.Contains(w.Body.String(), "\nsekisho_audit_outages_total 1\n") {
		t.Errorf("metrics: %d %s", w.Code, w.Body)
	}
	st := svc.status(t.Context())
	if st.Well || st.Log.Writable || st.Log.Since.IsZero() || len(st.Problems) != 1 || !strings.HasPrefix(st.Problems[0], "the audit log cannot be written since ") {
		t.Errorf("%+v", st)
	}
	var text strings.Builder
	if st.write(&text); !strings.Contains(text.String(), "\naudit log   CANNOT BE WRITTEN since ") {
		t.Errorf("%s", &text)
	}

	// Nobody but the server itself writes, and yet it is found out.
	ctx, cancel := context.WithCancel(t.Context())
	watching := make(chan struct{})
	go func() { defer close(watching); svc.watchLog(ctx) }()
	defer func() { cancel(); <-watching }()
	awaitText(t, out, "the audit log cannot be written; no forward is opened until it can")
	if err := os.Rename(lock+".away", lock); err != nil {
		t.Fatal(err)
	}
	awaitText(t, out, "the audit log can be written again")
	if w := get("/readyz"); w.Code != http.StatusOK {
		t.Errorf("readyz: %d %s", w.Code, w.Body)
	}
	if st := svc.status(t.Context()); !st.Well {
		t.Errorf("%+v", st)
	}
	resumed := 0
	for _, rec := range records(t, dir) {
		if rec.Type == audit.LogResume && rec.Reason == "outage" && strings.HasPrefix(rec.Detail, "the log could not be written since ") {
			resumed++
		}
	}
	if resumed != 1 {
		t.Errorf("%d records log.resume", resumed)
	}
	svc.drain.begin(errors.New("a test"), time.Hour)
	if w := get("/readyz"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("readyz: %d %s", w.Code, w.Body)
	}
}

func awaitText(t *testing.T, out *lockedBuffer, text string) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !strings.Contains(out.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never %q:\n%s", text, out)
		}
	}
}
