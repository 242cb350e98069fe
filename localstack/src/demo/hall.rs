//! The hall: how it is divided, and which of its seats people want.

use super::client::SeatMap;
use contracts::SeatId;
use contracts::seats::SeatStatus;
use fastrand::Rng;
use serde_json::{Value, json};

/// Name, grade, price in won, and share of the rows in percent. The last takes what is left.
const SECTIONS: [(&str, &str, i64, u32); 4] =
    [("V", "VIP", 198_000, 10), ("R", "R", 165_000, 30), ("S", "S", 132_000, 30), ("A", "A", 99_000, 30)];
/// A row in the back for the seats that fill no row of their own.
const BACK: (&str, &str, i64) = ("B", "B", 77_000);

/// The sections of a hall with that many seats, as an operator describes them.
pub fn sections(seats: u32) -> Vec<Value> {
    let per_row = match seats {
        0..=1_000 => 10,
        1_001..=10_000 => 25,
        _ => 50,
    };
    let rows = seats / per_row;
    let mut left = rows;
    let mut sections = Vec::new();
    for (index, (name, grade, price, percent)) in SECTIONS.into_iter().enumerate() {
        let last = index + 1 == SECTIONS.len();
        let share = if last { left } else { (rows * percent).div_ceil(100).min(left) };
        left -= share;
        if share > 0 {
            let block =
                json!({"section": name, "grade": grade, "price": price, "rows": share, "seats_per_row": per_row});
            sections.push(block);
        }
    }
    let rest = seats % per_row;
    if rest > 0 {
        let (name, grade, price) = BACK;
        let block = json!({"section": name, "grade": grade, "price": price, "rows": 1, "seats_per_row": rest});
        sections.push(block);
    }
    sections
}

/// Seats next to each other, and what they cost together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub seats: Vec<SeatId>,
    /// Their price.
    pub price: i64,
}

/// Chooses `party` free seats side by side, or fewer when there is no such block. All buyers want the best ones: the
/// front of the dearest section, in the middle of the row. `None` when nothing is free.
pub fn choose(map: &SeatMap, party: usize, rng: &mut Rng) -> Option<Choice> {
    (1..=party).rev().find_map(|party| {
        let mut wanted = blocks(map, party);
        if wanted.is_empty() {
            return None;
        }
        // The square of a number below one is often near zero: of the buyers who choose among 400 blocks at the same
        // moment, one in twenty takes the very best and half the best quarter.
        let skewed = rng.f64().powi(2) * wanted.len() as f64;
        let index = (skewed as usize).min(wanted.len() - 1);
        Some(wanted.swap_remove(index))
    })
}

/// All blocks of `party` free seats side by side, the best first. Blocks do not overlap.
fn blocks(map: &SeatMap, party: usize) -> Vec<Choice> {
    let mut found = Vec::new();
    for section in &map.sections {
        let middle = section.seats.iter().map(|seat| seat.seat_id.number).max().unwrap_or(1).div_ceil(2);
        let mut of_section = Vec::new();
        let mut run: Vec<SeatId> = Vec::new();
        for seat in &section.seats {
            let adjacent = run.last().is_none_or(|last| last.row == seat.seat_id.row);
            if seat.status != SeatStatus::Available || !adjacent {
                run.clear();
            }
            if seat.status == SeatStatus::Available {
                run.push(seat.seat_id.clone());
            }
            if run.len() == party {
                let seats = std::mem::take(&mut run);
                of_section.push(Choice { price: section.price * seats.len() as i64, seats });
            }
        }
        of_section.sort_by_key(|block| {
            let seat = &block.seats[block.seats.len() / 2];
            (seat.row, seat.number.abs_diff(middle))
        });
        found.extend(of_section);
    }
    found
}

/// The map as text: `#` sold, `o` held, `.` free, a word a row.
pub fn draw(map: &SeatMap) -> String {
    const WIDTH: usize = 100;
    const MOST: usize = 3_000;
    let mut text = String::new();
    for section in &map.sections {
        let count = |status| section.seats.iter().filter(|seat| seat.status == status).count();
        let (sold, held, all) = (count(SeatStatus::Sold), count(SeatStatus::Held), section.seats.len());
        text.push_str(&format!(
            "  {} ({}, {} won): {sold} of {all} sold{}\n",
            section.section,
            section.grade,
            super::report::thousands(section.price),
            if held > 0 { format!(", {held} held") } else { String::new() }
        ));
        if all > MOST {
            continue;
        }
        let mut line = String::new();
        let rows = section.seats.chunk_by(|a, b| a.seat_id.row == b.seat_id.row);
        for row in rows {
            let word: String = row
                .iter()
                .map(|seat| match seat.status {
                    SeatStatus::Available => '.',
                    SeatStatus::Held => 'o',
                    SeatStatus::Sold => '#',
                })
                .collect();
            if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
                text.push_str(&format!("    {line}\n"));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
        text.push_str(&format!("    {line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rows: &[&str]) -> SeatMap {
        let seats: Vec<Value> = rows
            .iter()
            .enumerate()
            .flat_map(|(row, seats)| {
                seats.chars().enumerate().map(move |(number, seat)| {
                    let status = match seat {
                        '#' => "sold",
                        'o' => "held",
                        _ => "available",
                    };
                    json!({"seat_id": format!("V-{}-{}", row + 1, number + 1), "status": status})
                })
            })
            .collect();
        let section = json!({"section": "V", "grade": "VIP", "price": 10, "seats": seats});
        serde_json::from_value(json!({"schedule_id": "s", "seats_available": 0, "sections": [section]})).unwrap()
    }

    fn ids(choice: &Choice) -> Vec<String> {
        choice.seats.iter().map(SeatId::to_string).collect()
    }

    #[test]
    fn a_hall_has_exactly_as_many_seats_as_asked_for() {
        for seats in [1, 9, 10, 11, 25, 39, 100, 500, 501, 999, 1_001, 9_999, 50_000, 100_000] {
            let total: u64 = sections(seats)
                .iter()
                .map(|section| section["rows"].as_u64().unwrap() * section["seats_per_row"].as_u64().unwrap())
                .sum();
            assert_eq!(total, u64::from(seats));
        }
        let names: Vec<Value> = sections(500).iter().map(|section| section["rows"].clone()).collect();
        assert_eq!(names, [5, 15, 15, 15]);
    }

    #[test]
    fn the_best_block_is_in_front_and_in_the_middle() {
        let blocks = blocks(&map(&["#......", "......."]), 1);
        assert_eq!(ids(&blocks[0]), ["V-1-4"]);
        assert_eq!(blocks.len(), 13);
        assert_eq!(blocks[12].seats[0].row, 2);
    }

    #[test]
    fn seats_of_a_party_are_side_by_side_and_free() {
        let all = blocks(&map(&["..#.o..", ".#.#.#."]), 2);
        assert_eq!(all.iter().map(ids).collect::<Vec<_>>(), [["V-1-1", "V-1-2"], ["V-1-6", "V-1-7"]]);
        assert_eq!(all[0].price, 20);
    }

    #[test]
    fn a_party_that_finds_no_room_takes_fewer_seats() {
        let mut rng = Rng::with_seed(1);
        assert_eq!(choose(&map(&["#.#.#"]), 3, &mut rng).unwrap().seats.len(), 1);
        assert_eq!(choose(&map(&["#o#"]), 3, &mut rng), None);
    }

    #[test]
    fn many_want_the_same_seats() {
        let map = map(&[
            "....................................................................................................",
        ]);
        let firsts = (0..1_000).filter(|seed| {
            let choice = choose(&map, 1, &mut Rng::with_seed(*seed)).unwrap();
            ids(&choice) == ["V-1-50"]
        });
        assert!((70..150).contains(&firsts.count()));
    }

    #[test]
    fn the_map_is_drawn_a_word_a_row() {
        assert_eq!(draw(&map(&["#.o", "..#"])), "  V (VIP, 10 won): 2 of 6 sold, 1 held\n    #.o ..#\n");
    }
}
