//! PURE: one frame of `top`. Works from 80 by 24 on, with and without colour.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Flex, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Sparkline, Table, TableState};
use serde_json::Value;

use super::super::screen::{self, clean};
use super::state::{Link, Pane, Top};
use super::text;

/// From this height on every pane has a place of its own.
const TALL: u16 = 34;
/// Steps that make a minute.
const MINUTE: usize = 6;

/// Colours, or none: then emphasis only.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    pub(super) color: bool,
}

impl Theme {
    fn tint(self, color: Color, otherwise: Modifier) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new().add_modifier(otherwise) }
    }

    fn good(self) -> Style {
        self.tint(Color::Green, Modifier::empty())
    }

    fn warn(self) -> Style {
        self.tint(Color::Yellow, Modifier::BOLD)
    }

    fn bad(self) -> Style {
        self.tint(Color::Red, Modifier::BOLD).add_modifier(Modifier::BOLD)
    }

    fn chart(self) -> Style {
        self.tint(Color::Cyan, Modifier::empty())
    }

    fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn marked(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, top: &mut Top, theme: Theme) {
    let rows = [Constraint::Length(3), Constraint::Length(3), Constraint::Min(6), Constraint::Length(1)];
    let [head, rates, body, foot] = Layout::vertical(rows).areas(frame.area());
    header(frame, head, top, theme);
    charts(frame, rates, &top.overview["history"]["series"], theme);
    if top.open.is_some() {
        opened(frame, body, top, theme);
    } else if frame.area().height >= TALL {
        let [upper, middle, lower] = Layout::vertical([Constraint::Fill(1); 3]).areas(body);
        let halves = Layout::horizontal([Constraint::Fill(1); 2]);
        let ([lanes, sessions], [flying, deliveries]) = (halves.areas(upper), halves.areas(middle));
        for (pane, area) in [lanes, sessions, flying, deliveries, lower].iter().enumerate() {
            self::pane(frame, *area, top, Pane::ALL[pane], theme);
        }
    } else {
        let [upper, lower] = Layout::vertical([Constraint::Fill(1); 2]).areas(body);
        let [lanes, sessions] = Layout::horizontal([Constraint::Fill(1); 2]).areas(upper);
        pane(frame, lanes, top, Pane::Lanes, theme);
        pane(frame, sessions, top, Pane::Sessions, theme);
        pane(frame, lower, top, top.lower, theme);
    }
    let keys = if top.open.is_some() {
        " Esc back   j k select   r again   ? help   q quit"
    } else {
        " Tab pane   j k select   Enter items of the lane   ? help   q quit"
    };
    frame.render_widget(Paragraph::new(keys).style(theme.dim()), foot);
    if top.help {
        help(frame, theme);
    }
}

fn header(frame: &mut Frame<'_>, area: Rect, top: &Top, theme: Theme) {
    let o = &top.overview;
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let bytes = |value: &Value| screen::bytes(number(value));
    let left = Line::from(vec![
        Span::styled(" waystation ", theme.strong()),
        Span::raw(format!("{}  {}", text(&o["version"]), text(&o["hostname"]))),
    ]);
    let up = screen::age(number(&o["uptime_seconds"]));
    let at = text(&o["at"]).split('T').nth(1).and_then(|time| time.get(..8)).unwrap_or("--:--:--");
    let right = Line::from(format!("up {up}   {at} UTC ")).alignment(Alignment::Right);
    let [first, second, third] = Layout::vertical([Constraint::Length(1); 3]).areas(area);
    frame.render_widget(left, first);
    frame.render_widget(status(top, theme), second);
    if o.is_null() {
        return;
    }
    frame.render_widget(right, first);
    let ms = |value: &Value| value.as_f64().map_or("-".to_owned(), |ms| format!("{ms:.1}"));
    let oldest = o["oldest_ready_seconds"].as_u64().map_or("-".to_owned(), screen::age);
    let mut facts = vec![
        // What waits to leave waits for no gateway.
        format!("ready {}", number(&o["items"]["ready"]).saturating_sub(number(&o["submissions"]["ready"]))),
        format!("held {}", number(&o["items"]["held"])),
        format!("leased {}", number(&o["leased"])),
        format!("oldest {oldest}"),
        format!("commit {}/{} ms", ms(&o["commit"]["p50_ms"]), ms(&o["commit"]["p99_ms"])),
        format!("free {}", bytes(&o["free_bytes"])),
        format!("mailboxes {}", number(&o["mailboxes"])),
        format!("journal {}", bytes(&o["journal_bytes"])),
        format!("index {}", bytes(&o["index_bytes"])),
    ];
    // What does not fit is left out as a whole.
    while facts.len() > 1
        && facts.iter().map(|fact| fact.chars().count() + 3).sum::<usize>() > area.width.into()
    {
        facts.pop();
    }
    frame.render_widget(Line::from(format!(" {}", facts.join("   "))), third);
}

fn status(top: &Top, theme: Theme) -> Line<'_> {
    let o = &top.overview;
    match &top.link {
        Link::Looking => return Line::styled(" looking for the relay", theme.dim()),
        Link::Lost(why) => {
            return Line::styled(format!(" THE RELAY IS AWAY: {}; trying again", clean(why)), theme.bad());
        }
        Link::Live => {}
    }
    let mut spans = vec![Span::raw(" ")];
    if o["ready"] == true {
        spans.push(Span::styled("ready for mail", theme.good()));
    } else {
        let problems = o["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let problems = problems.map(clean).collect::<Vec<_>>().join("; ");
        spans.push(Span::styled(format!("NOT READY: {problems}"), theme.bad()));
    }
    let sessions = o["sessions"].as_u64().unwrap_or(0);
    let gateways = if sessions == 1 { "session" } else { "sessions" };
    spans.push(Span::raw(format!("   {sessions} {gateways}")));
    let d = &o["deliveries"];
    match d["paused"].as_str() {
        Some(why) => {
            let words = format!("   DELIVERIES PAUSED: {}", clean(why));
            spans.push(Span::styled(words, theme.warn()));
        }
        None => {
            let under_way = d["under_way"].as_u64().unwrap_or(0);
            let s = if under_way == 1 { "y" } else { "ies" };
            spans.push(Span::raw(format!("   {under_way} deliver{s} under way")));
        }
    }
    if top.missed > 0 {
        spans.push(Span::styled(format!("   {} events missed", top.missed), theme.dim()));
    }
    Line::from(spans)
}

/// Six small charts of the last steps, with the sum of the last minute beside each.
fn charts(frame: &mut Frame<'_>, area: Rect, series: &Value, theme: Theme) {
    const CHARTS: [[(&str, &str); 3]; 2] = [
        [("accepted", "accepted"), ("acked", "acked"), ("refused", "refused")],
        [("sent", "sent"), ("failed", "failed"), ("commit p99", "commit_p99_ms")],
    ];
    let columns = Layout::horizontal([Constraint::Fill(1); 2]).areas::<2>(area);
    for (column, charts) in columns.iter().zip(CHARTS) {
        let rows = Layout::vertical([Constraint::Length(1); 3]).areas::<3>(*column);
        for (row, (label, name)) in rows.iter().zip(charts) {
            chart(frame, *row, label, &series[name], name == "commit_p99_ms", theme);
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a chart has eight heights")]
fn chart(frame: &mut Frame<'_>, area: Rect, label: &str, steps: &Value, is_latency: bool, theme: Theme) {
    let widths = [Constraint::Length(12), Constraint::Fill(1), Constraint::Length(13)];
    let [left, middle, right] = Layout::horizontal(widths).areas(area);
    frame.render_widget(Line::styled(format!(" {label:<11}"), theme.dim()), left);
    let steps = steps.as_array().map_or(&[][..], Vec::as_slice);
    let shown = &steps[steps.len().saturating_sub(middle.width.into())..];
    let height = |step: &Value| step.as_f64().map(|value| (value * 1000.0) as u64);
    let chart = Sparkline::default().data(shown.iter().map(height)).style(theme.chart());
    frame.render_widget(chart.absent_value_symbol("·").absent_value_style(theme.dim()), middle);
    let minute = &steps[steps.len().saturating_sub(MINUTE)..];
    let value = if is_latency {
        minute.iter().rev().find_map(Value::as_f64).map_or("-".to_owned(), |ms| format!("{ms:.1} ms"))
    } else if minute.iter().all(Value::is_null) {
        "-".to_owned()
    } else {
        format!("{}/min", minute.iter().filter_map(Value::as_u64).sum::<u64>())
    };
    frame.render_widget(Line::from(format!("{value} ")).alignment(Alignment::Right), right);
}

fn pane(frame: &mut Frame<'_>, area: Rect, top: &Top, pane: Pane, theme: Theme) {
    let focused = top.pane == pane;
    let block = framed(title(top, pane, frame.area().height < TALL, theme), focused, theme);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let visible = usize::from(inner.height.saturating_sub(1)).max(1);
    let at = top.selected(pane);
    // Only what is seen is made into rows.
    let first = at.saturating_sub(visible - 1).min(top.len(pane).saturating_sub(visible));
    let (header, widths, rows) = match pane {
        Pane::Lanes => lanes(top, first, visible, inner.width, theme),
        Pane::Sessions => sessions(top, first, visible, inner.width),
        Pane::Flying => flying(top, first, visible),
        Pane::Deliveries => deliveries(top, first, visible, theme),
        Pane::Events => events(top, first, visible, theme),
    };
    if rows.is_empty() {
        let area = Rect { height: inner.height.min(1), ..inner };
        frame.render_widget(Line::styled(format!(" {}", nothing(top, pane)), theme.dim()), area);
        return;
    }
    let table = Table::new(rows, widths)
        .header(Row::new(header).style(theme.dim()))
        .column_spacing(1)
        .row_highlight_style(if focused { theme.marked() } else { Style::new() });
    let mut selected = TableState::new().with_selected(at.saturating_sub(first));
    frame.render_stateful_widget(table, inner, &mut selected);
}

/// Words for an empty pane.
fn nothing(top: &Top, pane: Pane) -> &'static str {
    match pane {
        _ if top.overview.is_null() => "",
        Pane::Lanes => "nothing waits",
        Pane::Sessions => "no gateway is connected",
        Pane::Flying => "nothing in flight, as far as this view saw",
        Pane::Deliveries => "no attempt since this view began",
        Pane::Events => "nothing happened since this view began",
    }
}

fn framed<'a>(title: Line<'a>, focused: bool, theme: Theme) -> Block<'a> {
    let style = if focused { theme.strong() } else { theme.dim() };
    Block::bordered().border_style(style).title(title)
}

fn title<'a>(top: &Top, pane: Pane, crowded: bool, theme: Theme) -> Line<'a> {
    let named = |pane: Pane| {
        let count = match pane {
            _ if top.overview.is_null() => String::new(),
            Pane::Sessions if top.more_sessions => format!(" {}+", top.sessions.len()),
            Pane::Lanes | Pane::Sessions | Pane::Flying => format!(" {}", top.len(pane)),
            Pane::Deliveries | Pane::Events => String::new(),
        };
        format!(" {}{count} ", pane.title())
    };
    if !crowded || !pane.is_lower() {
        return Line::styled(named(pane), theme.strong());
    }
    let tabs = Pane::ALL
        .into_iter()
        .filter(|other| other.is_lower())
        .map(|other| Span::styled(named(other), if other == pane { theme.strong() } else { theme.dim() }));
    Line::from(tabs.collect::<Vec<_>>())
}

type Rows<'a> = (Vec<Text<'a>>, Vec<Constraint>, Vec<Row<'a>>);

fn right(words: impl Into<String>) -> Text<'static> {
    Text::from(words.into()).alignment(Alignment::Right)
}

fn lanes<'a>(top: &Top, first: usize, visible: usize, width: u16, theme: Theme) -> Rows<'a> {
    let wide = width >= 56;
    let bar = usize::from(width.saturating_sub(if wide { 48 } else { 34 }).clamp(3, 40));
    let most = top.lanes.iter().map(|lane| lane.ready + lane.held).max().unwrap_or(0);
    let mut header = vec![Text::from("lane"), Text::from(""), right("ready"), right("held")];
    let mut widths = vec![
        Constraint::Fill(1),
        Constraint::Length(u16::try_from(bar).unwrap_or(3)),
        Constraint::Length(7),
        Constraint::Length(5),
    ];
    if wide {
        header.push(right("bytes"));
        widths.push(Constraint::Length(10));
    }
    header.push(right("oldest"));
    widths.push(Constraint::Length(7));
    let rows = top.lanes.iter().skip(first).take(visible).map(|lane| {
        let mut cells = vec![
            Text::from(clean(&top.name(&lane.key))),
            Text::styled(bar_of(lane.ready + lane.held, most, bar), theme.chart()),
            right(lane.ready.to_string()),
            right(lane.held.to_string()),
        ];
        if wide {
            cells.push(right(screen::bytes(lane.bytes)));
        }
        cells.push(right(lane.oldest.map_or("-".to_owned(), screen::age)));
        Row::new(cells)
    });
    (header, widths, rows.collect())
}

/// A bar of at most `width` cells, in eighths.
fn bar_of(value: u64, most: u64, width: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = u128::from(value) * (width as u128) * 8 / u128::from(most.max(1));
    let eighths = usize::try_from(eighths).unwrap_or(0).max(usize::from(value > 0));
    format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8])
}

fn sessions<'a>(top: &Top, first: usize, visible: usize, width: u16) -> Rows<'a> {
    let wide = width >= 72;
    let mut header =
        vec![Text::from("lane"), Text::from("T"), right("fly"), right("bytes"), right("acked"), right("for")];
    let mut widths = vec![Constraint::Fill(1), Constraint::Length(1), Constraint::Length(3)];
    widths.extend([Constraint::Length(9), Constraint::Length(5), Constraint::Length(6)]);
    if wide {
        header.extend([Text::from("role"), Text::from("client")]);
        widths.extend([Constraint::Length(8), Constraint::Length(16)]);
    }
    let rows = top.sessions.iter().skip(first).take(visible).map(|session| {
        let number = |name: &str| session[name].as_u64().unwrap_or(0);
        let mut cells = vec![
            Text::from(clean(&top.name(text(&session["lane"])))),
            Text::from(number("tunnel").to_string()),
            right(number("in_flight_items").to_string()),
            right(screen::bytes(number("in_flight_bytes"))),
            right(number("acked").to_string()),
            right(screen::age(number("connected_seconds"))),
        ];
        if wide {
            cells.push(Text::from(text(&session["role"]).to_owned()));
            cells.push(Text::from(text(&session["client"]).to_owned()));
        }
        Row::new(cells)
    });
    (header, widths, rows.collect())
}

fn flying<'a>(top: &Top, first: usize, visible: usize) -> Rows<'a> {
    let header = vec![Text::from("item"), Text::from("lane"), right("bytes"), Text::from("offered at")];
    let widths =
        vec![Constraint::Length(26), Constraint::Fill(1), Constraint::Length(10), Constraint::Length(12)];
    let rows = top.flying.iter().skip(first).take(visible).map(|(id, flying)| {
        Row::new(vec![
            Text::from(clean(id)),
            Text::from(clean(&top.name(&flying.lane))),
            right(screen::bytes(flying.size)),
            Text::from(time_of(&flying.since)),
        ])
    });
    (header, widths, rows.collect())
}

fn deliveries<'a>(top: &Top, first: usize, visible: usize, theme: Theme) -> Rows<'a> {
    let header =
        vec![Text::from("time"), Text::from("outcome"), Text::from("destination"), Text::from("said")];
    let widths =
        vec![Constraint::Length(8), Constraint::Length(13), Constraint::Fill(1), Constraint::Fill(2)];
    let rows = top.deliveries.iter().skip(first).take(visible).map(|event| {
        let name = text(&event["event"]).rsplit('.').next().unwrap_or("");
        let (word, style) = match (name, text(&event["outcome"])) {
            ("sent", _) => ("sent", theme.good()),
            ("failed", _) => ("failed", theme.warn()),
            ("indeterminate", _) => ("indeterminate", theme.bad()),
            (_, "deferred") => ("later", theme.warn()),
            (_, _) => ("attempted", theme.dim()),
        };
        let said = [&event["text"], &event["host"], &event["message"]];
        let said = said.into_iter().filter_map(Value::as_str).find(|said| !said.is_empty()).unwrap_or("");
        Row::new(vec![
            Text::from(time_of(text(&event["time"])).chars().take(8).collect::<String>()),
            Text::styled(word, style),
            Text::from(clean(text(&event["destination"]))),
            Text::from(clean(said)),
        ])
    });
    (header, widths, rows.collect())
}

fn events<'a>(top: &Top, first: usize, visible: usize, theme: Theme) -> Rows<'a> {
    let header = vec![Text::from("time"), Text::from("event"), Text::from("id"), Text::from("")];
    let widths =
        vec![Constraint::Length(8), Constraint::Length(19), Constraint::Length(26), Constraint::Fill(1)];
    let rows = top.events.iter().skip(first).take(visible).map(|event| {
        let style = match text(&event["level"]) {
            "error" => theme.bad(),
            "warn" => theme.warn(),
            _ => Style::new(),
        };
        let id = [&event["item.id"], &event["submission.id"]].into_iter().find_map(Value::as_str);
        let lane = event["lane"].as_str().map(|lane| top.name(lane));
        Row::new(vec![
            Text::from(time_of(text(&event["time"])).chars().take(8).collect::<String>()),
            Text::styled(clean(text(&event["event"]).trim_start_matches("relay.")), style),
            Text::from(id.map_or_else(|| lane.clone().unwrap_or_default(), clean)),
            Text::from(clean(text(&event["message"]))),
        ])
    });
    (header, widths, rows.collect())
}

/// The items of a lane.
fn opened(frame: &mut Frame<'_>, area: Rect, top: &Top, theme: Theme) {
    let Some(open) = &top.open else { return };
    let block = framed(
        Line::styled(format!(" items of {} ", clean(&top.name(&open.lane))), theme.strong()),
        true,
        theme,
    );
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let items = open.page.as_ref().and_then(|page| page["items"].as_array()).map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        let words = match &open.page {
            None => "asking",
            Some(page) => page["problem"].as_str().unwrap_or("this lane holds nothing"),
        };
        frame.render_widget(Line::styled(format!(" {}", clean(words)), theme.dim()), inner);
        return;
    }
    let header = vec![
        Text::from("id"),
        Text::from("state"),
        right("age"),
        right("bytes"),
        Text::from("from"),
        Text::from("to"),
    ];
    let mut widths = vec![Constraint::Length(26), Constraint::Length(13), Constraint::Length(7)];
    widths.extend([Constraint::Length(9), Constraint::Fill(1), Constraint::Fill(1)]);
    let rows = items.iter().map(|item| {
        let state = text(&item["state"]);
        let style = match state {
            "held" | "expired" | "failed" => theme.warn(),
            "quarantined" | "indeterminate" => theme.bad(),
            "acked" | "sent" => theme.good(),
            _ => Style::new(),
        };
        Row::new(vec![
            Text::from(clean(text(&item["id"]))),
            Text::styled(clean(state), style),
            right(screen::age(item["age_seconds"].as_u64().unwrap_or(0))),
            right(screen::bytes(item["size_bytes"].as_u64().unwrap_or(0))),
            Text::from(clean(text(&item["mail_from"]))),
            Text::from(clean(text(&item["rcpt_to"]))),
        ])
    });
    let table = Table::new(rows, widths)
        .header(Row::new(header).style(theme.dim()))
        .column_spacing(1)
        .row_highlight_style(theme.marked());
    frame.render_stateful_widget(table, inner, &mut TableState::new().with_selected(open.at));
}

fn help(frame: &mut Frame<'_>, theme: Theme) {
    const LINES: [&str; 13] = [
        "Tab, Shift-Tab   the next pane, the one before",
        "arrows, j k      select a line",
        "PgUp PgDn g G    ten lines, first, last",
        "Enter            the items of the line's lane",
        "r                ask for them again",
        "Esc, Backspace   back",
        "?                this help",
        "q, Esc, Ctrl-C   quit",
        "",
        "Charts: steps of 10 s, the newest on the right;",
        "beside them the sum of the last minute.",
        "fly: items on their way to the gateway;",
        "commit p50/p99 of the last minute.",
    ];
    let [area] = Layout::horizontal([Constraint::Length(54)]).flex(Flex::Center).areas(frame.area());
    let [area] = Layout::vertical([Constraint::Length(15)]).flex(Flex::Center).areas(area);
    let lines: Vec<Line<'_>> = LINES.iter().map(|line| Line::from(format!(" {line}"))).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(framed(Line::from(" keys "), true, theme)), area);
}

/// `03:04:05.678` of an RFC 3339 time.
fn time_of(at: &str) -> String {
    at.split('T').nth(1).unwrap_or("").trim_end_matches('Z').to_owned()
}
